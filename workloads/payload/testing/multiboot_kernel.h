// A bare-metal kernel for tests (multiboot.c), as `quire run --kernel` boots it. It lives as long as the program.
#ifndef QUIRE_WORKLOADS_PAYLOAD_TESTING_MULTIBOOT_KERNEL_H_
#define QUIRE_WORKLOADS_PAYLOAD_TESTING_MULTIBOOT_KERNEL_H_

#include <cstddef>

#include "absl/types/span.h"

namespace quire {

absl::Span<const std::byte> MultibootKernel();

}  // namespace quire

#endif  // QUIRE_WORKLOADS_PAYLOAD_TESTING_MULTIBOOT_KERNEL_H_
