// The file of a virtual processor of KVM: entering the guest, and getting out of it, whatever it is that runs there.
#ifndef QUIRE_VMM_KVM_VCPU_FILE_H_
#define QUIRE_VMM_KVM_VCPU_FILE_H_

#include <linux/kvm.h>
#include <pthread.h>

#include <cstdint>
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
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/kvm_vm.h"

namespace quire {

// One thread at a time calls Enter and Die, normally a thread of its own; any thread may call Kick and read the
// statistics.
//
// A vCPU that is in a fault nobody has served yet blocks every ioctl on it, so once the vCPU is set up they are
// made between Enters only, on their thread.
class VcpuFile {
 public:
  // Makes vCPU number `vcpu` of `vm`, which outlives it, with this CPUID. Errors: those of KvmCallError.
  static absl::StatusOr<std::unique_ptr<VcpuFile>> Create(const KvmVm& vm, int vcpu, const CpuidTable& cpuid);

  // One KVM_RUN; returns 0 or its errno. EINTR: a kick, or any other signal.
  int Enter() ABSL_LOCKS_EXCLUDED(mutex_);

  // Makes Enter return EINTR soon: the one under way, or else the next one. Never lost: if the one under way returns
  // something else first, the next returns at once. Several kicks may end in one EINTR, so say first, elsewhere, what
  // is wanted, and kick then. A vCPU that waits in a fault is interrupted at once from Linux 6.2 on. Before, the kick
  // only takes effect when the fault has been served or its userfaultfd closed: keep serving faults until every vCPU
  // has returned.
  void Kick() ABSL_LOCKS_EXCLUDED(mutex_);

  // The death of what runs here, with this vCPU's registers as they are. Called between Enters, on their thread.
  Death Die(std::string sentence) const;

  // An ioctl on the vCPU. `what` is for the error: "reading registers". Errors: those of KvmCallError.
  absl::Status Call(unsigned long request, void* argument, absl::string_view what) const;

  // A model-specific register. NotFound: the vCPU has none of that number, or cannot have that value in it. Other
  // errors: those of KvmCallError.
  absl::StatusOr<uint64_t> ReadMsr(uint32_t number) const;
  absl::Status WriteMsr(uint32_t number, uint64_t value) const;

  // What the last Enter left, and more memory that KVM shares after it.
  kvm_run& run() const { return *reinterpret_cast<kvm_run*>(run_.data()); }
  // KVM's counters of this vCPU, or null where the kernel has none.
  const KvmStats* stats() const { return stats_ ? &*stats_ : nullptr; }
  int number() const { return vcpu_; }

 private:
  struct OneMsr;
  absl::Status CallForMsr(unsigned long request, absl::string_view what, OneMsr& msr) const;

  VcpuFile(UniqueFd fd, Mapping run, std::optional<KvmStats> stats, int vcpu);

  const UniqueFd fd_;
  const Mapping run_;
  const std::optional<KvmStats> stats_;
  const int vcpu_;

  // Covers run().immediate_exit too, which KVM reads at the start of KVM_RUN. Innermost; held for a few instructions
  // and one pthread_kill.
  absl::Mutex mutex_;
  std::optional<pthread_t> runner_ ABSL_GUARDED_BY(mutex_);  // the thread that is in Enter
};

}  // namespace quire

#endif  // QUIRE_VMM_KVM_VCPU_FILE_H_
