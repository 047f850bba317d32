// A line from a device to a guest's interrupt controllers, which KVM has in the kernel.
#ifndef QUIRE_VMM_KVM_INTERRUPT_LINE_H_
#define QUIRE_VMM_KVM_INTERRUPT_LINE_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "vmm/kvm/kvm_vm.h"

namespace quire {

// Edge-triggered: each Raise is an interrupt of its own, unless the guest has not taken the one before. Thread safe.
class InterruptLine {
 public:
  // Line `gsi` (global system interrupt: ISA's numbers, then the I/O APIC's) of `vm`, which has its chips.
  // Errors: those of KvmCallError.
  static absl::StatusOr<std::unique_ptr<InterruptLine>> Create(const KvmVm& vm, int gsi);

  void Raise() const;

 private:
  explicit InterruptLine(UniqueFd event) : event_(std::move(event)) {}

  const UniqueFd event_;  // an irqfd: what is written to it reaches the controller without a thread of this process
};

}  // namespace quire

#endif  // QUIRE_VMM_KVM_INTERRUPT_LINE_H_
