// A virtual processor of KVM.
#ifndef QUIRE_VMM_KVM_KVM_VCPU_H_
#define QUIRE_VMM_KVM_KVM_VCPU_H_

#include <linux/kvm.h>
#include <pthread.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "vmm/kvm/kvm_exit.h"
#include "vmm/kvm/kvm_stats.h"
#include "vmm/kvm/kvm_vm.h"
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
// A vCPU that is in a fault nobody has served yet blocks every ioctl on it, so nothing but Run and Die makes one once
// the vCPU is created.
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
  VcpuExit Run() ABSL_LOCKS_EXCLUDED(mutex_);

  // Makes Run return Interrupted soon: the Run under way, or else the next one. Never lost: if the Run under way
  // returns something else first, the next returns Interrupted at once. Several kicks may end in one Interrupted, so
  // say first, elsewhere, what is wanted, and kick then. A vCPU that waits in a fault is interrupted at once from
  // Linux 6.2 on. Before, the kick only takes effect when the fault has been served or its userfaultfd closed: keep
  // serving faults until every vCPU has returned.
  void Kick() ABSL_LOCKS_EXCLUDED(mutex_);

  // The state behind the exit that Run returned last. Called between Runs, on Run's thread.
  absl::StatusOr<VcpuState> Save();

  // A death of the caller's making, with this vCPU's registers as they are. Called between Runs, on Run's thread.
  Death Die(std::string sentence) const;

  // KVM's counters of this vCPU, or null where the kernel has none.
  const KvmStats* stats() const { return stats_ ? &*stats_ : nullptr; }

 private:
  KvmVcpu(UniqueFd fd, Mapping run, std::optional<KvmStats> stats, const WiredMemory& wired, int vcpu);

  static absl::StatusOr<std::unique_ptr<KvmVcpu>> Make(const KvmVm& vm, const WiredMemory& wired, int vcpu);
  absl::Status Boot(const VcpuStart& start);
  absl::Status Restore(const VcpuState& state);
  // One KVM_RUN; returns 0 or its errno.
  int Enter() ABSL_LOCKS_EXCLUDED(mutex_);
  // The death of the program if the write to kFaultPort came from its fault code.
  std::optional<Death> FaultDeath() const;
  kvm_run& run() const { return *reinterpret_cast<kvm_run*>(run_.data()); }

  const UniqueFd fd_;
  const Mapping run_;
  const std::optional<KvmStats> stats_;
  const WiredMemory& wired_;
  const int vcpu_;

  // Covers run().immediate_exit too, which KVM reads at the start of KVM_RUN. Innermost; held for a few instructions
  // and one pthread_kill.
  absl::Mutex mutex_;
  std::optional<pthread_t> runner_ ABSL_GUARDED_BY(mutex_);  // the thread that is in Enter
};

}  // namespace quire

#endif  // QUIRE_VMM_KVM_KVM_VCPU_H_
