#include "vmm/libvirt/qemu/qemu_accel.h"

#include <optional>
#include <pugixml.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "vmm/accel.h"

namespace quire {
namespace {

// Whether libvirt can start domains of this type for x86-64.
bool Offers(const pugi::xml_document& capabilities, absl::string_view type) {
  for (const pugi::xml_node guest : capabilities.child("capabilities").children("guest")) {
    const pugi::xml_node arch = guest.child("arch");
    if (absl::string_view(arch.attribute("name").value()) != "x86_64") continue;
    for (const pugi::xml_node domain : arch.children("domain")) {
      if (domain.attribute("type").value() == type) return true;
    }
  }
  return false;
}

}  // namespace

QemuAccel QemuAccelOf(const Host& host) {
  if (const std::optional<Obstacle> obstacle = KvmObstacle(host)) return {.kvm = false, .because = FullText(*obstacle)};
  if (const std::optional<Obstacle> obstacle = NestedPagingObstacle(host)) {
    return {.kvm = false, .because = obstacle->found};
  }
  return {.kvm = true, .because = "KVM works here"};
}

absl::StatusOr<QemuAccel> DecideQemuAccel(Accel asked, const Host& host, absl::string_view capabilities) {
  pugi::xml_document document;
  (void)document.load_buffer(capabilities.data(), capabilities.size());
  if (!Offers(document, "qemu") && !Offers(document, "kvm")) {
    return absl::FailedPreconditionError(
        "libvirt has no QEMU for x86-64 guests: install it (in Debian: apt-get install qemu-system-x86 "
        "libvirt-daemon-system), and start libvirtd again");
  }
  if (asked == Accel::kSoft) return QemuAccel{.kvm = false, .because = "it was asked for"};
  QemuAccel accel = QemuAccelOf(host);
  if (accel.kvm && !Offers(document, "kvm")) accel = {.kvm = false, .because = "libvirt offers no domains of type kvm"};
  if (asked == Accel::kAuto || accel.kvm) return accel;
  return absl::FailedPreconditionError(
      absl::StrCat("accel=kvm cannot be had for QEMU's guests, because ", accel.because, ": write accel = \"auto\""));
}

}  // namespace quire
