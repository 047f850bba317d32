// In place of real_connection.cc in programs that are built without libvirt.
#include "vmm/libvirt/connection.h"

namespace quire {

absl::StatusOr<std::unique_ptr<LibvirtConnection>> OpenLibvirt(const std::string&, LibvirtAccess) {
  return absl::FailedPreconditionError(
      "this program was built without libvirt (--config=no_libvirt): install libvirt-dev, and build it again without "
      "that option; to run it takes libvirt0");
}

}  // namespace quire
