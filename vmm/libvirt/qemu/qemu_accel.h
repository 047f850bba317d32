// What runs the instructions of QEMU's guests.
#ifndef QUIRE_VMM_LIBVIRT_QEMU_QEMU_ACCEL_H_
#define QUIRE_VMM_LIBVIRT_QEMU_QEMU_ACCEL_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/host.h"
#include "vmm/options.h"

namespace quire {

struct QemuAccel {
  bool kvm = false;     // else QEMU emulates the CPU (TCG)
  std::string because;  // continues "tcg, because ..."

  absl::string_view name() const { return kvm ? "kvm" : "tcg"; }
};

// Whether KVM can run a stock kernel on this host, as far as the host says: without nested paging not all do.
QemuAccel QemuAccelOf(const Host& host);

// The same, if that much is `asked` for; `capabilities` are what libvirt says of itself (virConnectGetCapabilities).
// Errors: FailedPrecondition, KVM is asked for and cannot be had, or libvirt offers no guests for this CPU at all; the
// message says what to do.
absl::StatusOr<QemuAccel> DecideQemuAccel(Accel asked, const Host& host, absl::string_view capabilities);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_QEMU_QEMU_ACCEL_H_
