// A host's memory: of the host that this program runs on, as its kernel tells; of others, as libvirt does.
#ifndef QUIRE_VMM_LIBVIRT_MANAGE_HOST_VIEW_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_HOST_VIEW_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/libvirt/connection.h"
#include "vmm/libvirt/manage/observation.h"

namespace quire {

// Whether `uri` names no other host: "qemu:///system", "qemu+unix:///system?socket=...".
bool IsThisHost(absl::string_view uri);

// Of this host: MemAvailable, PSI and KSM's switch, from files; `root` stands before their paths, for tests. Of others:
// what is free, and half of buffers and caches, for there libvirt does not tell what of it guests or others have
// mapped. `ksm` says whether that is wanted. Errors: those of the connection; what reading files reports.
absl::StatusOr<HostObservation> LookAtHost(LibvirtConnection& connection, bool this_host, bool ksm,
                                           const std::string& root = "");

// KSM's switch, below a host's root.
inline constexpr absl::string_view kKsmRun = "/sys/kernel/mm/ksm/run";

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_HOST_VIEW_H_
