#include "vmm/kvm/interrupt_line.h"

#include <linux/kvm.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "vmm/kvm/kvm_system.h"

namespace quire {

absl::StatusOr<std::unique_ptr<InterruptLine>> InterruptLine::Create(const KvmVm& vm, int gsi) {
  UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return absl::ErrnoToStatus(errno, "making an interrupt line (eventfd)");
  kvm_irqfd line = {};
  line.fd = static_cast<uint32_t>(event.get());
  line.gsi = static_cast<uint32_t>(gsi);
  if (ioctl(vm.fd(), KVM_IRQFD, &line) != 0) return KvmCallError(absl::StrCat("making interrupt line ", gsi), errno);
  return absl::WrapUnique(new InterruptLine(std::move(event)));
}

// Only a counter at its end could refuse, and KVM takes it back to 0 each time.
void InterruptLine::Raise() const { (void)eventfd_write(event_.get(), 1); }

}  // namespace quire
