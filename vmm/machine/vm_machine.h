// What guests under KVM have in common, whatever runs in them: the memory that KVM maps, the VM, and what is to be done
// when KVM cannot translate an address of that memory just now.
#ifndef QUIRE_VMM_MACHINE_VM_MACHINE_H_
#define QUIRE_VMM_MACHINE_VM_MACHINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/units.h"
#include "guest/frames/pool.h"
#include "guest/guest_memory.h"
#include "mmu/kvm_window.h"
#include "vmm/kvm/kvm_exit.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/machine/machine.h"

namespace quire {

class VmMachine : public Machine {
 public:
  // Null without managed memory, and of a template.
  KvmWindow* window() { return window_.get(); }
  // A counter of KVM's for this VM; 0 where the kernel does not count it.
  uint64_t KvmStatistic(absl::string_view name) const;

 protected:
  VmMachine(std::string name, int vcpus, GuestMemory* memory) : Machine(std::move(name), vcpus, memory) {}
  ~VmMachine() override;

  // The guest's memory: managed, with a window of its own on `pool`, if there is any, or the host kernel's. Once.
  absl::Status MapMemory(ByteCount size, AnonymousBlocks anonymous_blocks, const KvmWindowOptions& window, Pool* pool);
  // Where memslots of it point. MapMemory has succeeded.
  Hva hva() const { return window_ != nullptr ? window_->base() : anonymous().hva(); }

  absl::Status CreateVm(const KvmSystem& system);
  KvmVm& vm() { return *vm_; }
  // vCPUs are gone.
  void DropVm() { vm_.reset(); }
  void DropWindow() { window_.reset(); }

  // Runs a vCPU until it comes out for another reason than that a piece of the window is being replaced. A MemoryFault
  // that is returned went on with nothing being replaced, or is of a lost page. Interrupted: perhaps because killed().
  template <class Vcpu>
  auto RunPastRemappings(Vcpu& vcpu) {
    for (int faults = 0;; ++faults) {
      const auto before = window_ != nullptr ? window_->remappings() : KvmWindow::RemapSequence{};
      auto exit = vcpu.Run();
      auto* const fault = std::get_if<MemoryFault>(&exit);
      if (fault == nullptr) return exit;
      if (killed()) return decltype(exit)(Interrupted{});
      if (window_ != nullptr && window_->AwaitRemapping(before)) continue;
      if (window_ != nullptr) fault->lost = window_->TakeLostPage();
      if (fault->lost.has_value() || !MayTryAgain(faults)) return exit;
    }
  }
  // What a vCPU that cannot go on ends with.
  static absl::Status Died(const Death& death);
  // The sentence for a MemoryFault that goes on.
  static constexpr absl::string_view kCannotTranslate =
      "KVM cannot translate an address of the guest's memory, again and again";

 private:
  // After so many faults with nothing being replaced, or little. Waits for a moment.
  static bool MayTryAgain(int faults);

  std::unique_ptr<KvmWindow> window_;  // where memory is managed
  std::unique_ptr<KvmVm> vm_;          // after what its memslots point at: it goes first
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_VM_MACHINE_H_
