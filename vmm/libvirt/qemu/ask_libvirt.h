// Whether there is a libvirt to start domains with, without becoming its client.
#ifndef QUIRE_VMM_LIBVIRT_QEMU_ASK_LIBVIRT_H_
#define QUIRE_VMM_LIBVIRT_QEMU_ASK_LIBVIRT_H_

#include <string>

#include "absl/status/statusor.h"

namespace quire {

// What the libvirt at this address says of itself (virConnectGetCapabilities). Asks from a process of its own: a
// connection starts threads, and who carries an experiment out forks. From a process without other threads.
// Errors: FailedPrecondition, libvirt is not installed, does not answer, or may not be used; what system calls report.
absl::StatusOr<std::string> AskLibvirt(const std::string& uri);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_QEMU_ASK_LIBVIRT_H_
