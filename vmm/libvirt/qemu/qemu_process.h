// The process behind a domain, which libvirt does not name.
#ifndef QUIRE_VMM_LIBVIRT_QEMU_QEMU_PROCESS_H_
#define QUIRE_VMM_LIBVIRT_QEMU_QEMU_PROCESS_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"

namespace quire {

// The process of this host that was told, by -uuid, that it is the domain with this UUID. `proc` is for tests.
// Errors: NotFound, there is none: the domain runs on another host, or in a container.
absl::StatusOr<pid_t> FindQemu(const std::string& uuid, const std::string& proc = "/proc");

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_QEMU_QEMU_PROCESS_H_
