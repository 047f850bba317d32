// Multiboot kernels: a header of a few words near the beginning of the file says that it is one.
//
// With an ELF file the program headers say what goes where; a kernel of another format (or one that wants it so) gives
// the addresses in the header itself. Either way it is entered in 32-bit protected mode.
//
// Source: Multiboot Specification 0.6.96, sections 3.1 and 3.3.
#ifndef QUIRE_VMM_BOOT_MULTIBOOT_H_
#define QUIRE_VMM_BOOT_MULTIBOOT_H_

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "base/file_view.h"
#include "vmm/boot/kernel_image.h"

namespace quire {

inline constexpr uint32_t kMultibootHeaderMagic = 0x1badb002;

// Where in the file its header is, if it has one.
std::optional<uint64_t> FindMultibootHeader(const FileView& file);

// `header_at` as FindMultibootHeader says. Errors: InvalidArgument, as ParseKernel.
absl::StatusOr<KernelImage> ParseMultiboot(const FileView& file, uint64_t header_at);

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_MULTIBOOT_H_
