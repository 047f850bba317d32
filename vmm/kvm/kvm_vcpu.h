// A virtual processor of KVM that runs a program of guest_abi.h.
#ifndef QUIRE_VMM_KVM_KVM_VCPU_H_
#define QUIRE_VMM_KVM_KVM_VCPU_H_

#include <linux/kvm.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/kvm/kvm_exit.h"
#include "vmm/kvm/kvm_stats.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/vcpu_file.h"
#include "vmm/kvm/wired_memory.h"

namespace quire {

// What a program can see of its vCPU: general and segment registers, control registers, x87 and SSE. There is no more,
// since CR4 lets it use nothing else and no interrupt ever arrives.
struct VcpuState {
  kvm_regs registers;
  kvm_sregs system;
  kvm_fpu floating_point;
};

// One thread at a time calls Run and Die, normally a thread of its own; any thread may call Kick and read the
// statistics.
//
//   for (;;) {
//     VcpuExit exit = vcpu->Run();
//     if (auto* output = std::get_if<SerialOutput>(&exit)) ...
//   }
class KvmVcpu {
 public:
  // Makes vCPU number `vcpu` of `vm`, ready to run the program in `wired`, which has been loaded. Both outlive it.
  // Wired memory must be in its memslot by the time it runs.
  // Errors: those of KvmCallError.
  static absl::StatusOr<std::unique_ptr<KvmVcpu>> Create(const KvmVm& vm, const WiredMemory& wired, int vcpu);
  // The same, to go on where another vCPU was.
  static absl::StatusOr<std::unique_ptr<KvmVcpu>> Create(const KvmVm& vm, const WiredMemory& wired, int vcpu,
                                                         const VcpuState& state);

  // Runs the guest until something happens that the caller has to know of. After Death or GuestExit it is not called
  // again. While an exit is pending the guest does not run: handle it and call again soon.
  VcpuExit Run();

  // Makes Run return Interrupted soon: VcpuFile::Kick.
  void Kick() { file_->Kick(); }

  // The state behind the exit that Run returned last. Called between Runs, on Run's thread.
  absl::StatusOr<VcpuState> Save();

  // A death of the caller's making, with this vCPU's registers as they are. Called between Runs, on Run's thread.
  Death Die(std::string sentence) const { return file_->Die(std::move(sentence)); }

  // KVM's counters of this vCPU, or null where the kernel has none.
  const KvmStats* stats() const { return file_->stats(); }

 private:
  KvmVcpu(std::unique_ptr<VcpuFile> file, const WiredMemory& wired) : file_(std::move(file)), wired_(wired) {}

  static absl::StatusOr<std::unique_ptr<KvmVcpu>> Make(const KvmVm& vm, const WiredMemory& wired, int vcpu);
  absl::Status Boot(const VcpuStart& start);
  absl::Status ReadState(VcpuState& state) const;
  absl::Status Restore(VcpuState state);
  // The death of the program if the write to kFaultPort came from its fault code.
  std::optional<Death> FaultDeath() const;

  const std::unique_ptr<VcpuFile> file_;
  const WiredMemory& wired_;
};

}  // namespace quire

#endif  // QUIRE_VMM_KVM_KVM_VCPU_H_
