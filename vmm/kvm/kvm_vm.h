// A virtual machine of KVM: memslots and statistics. vCPUs: kvm_vcpu.h.
#ifndef QUIRE_VMM_KVM_KVM_VM_H_
#define QUIRE_VMM_KVM_KVM_VM_H_

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "vmm/kvm/kvm_stats.h"
#include "vmm/kvm/kvm_system.h"

namespace quire {

// The numbers of a guest's memslots. A PC has memory above 4 GiB where a program has its wired memory.
enum class Memslot : int { kMemory = 0, kWired = 1, kHighMemory = 1, kFirstAux = 2 };
constexpr Memslot AuxMemslot(int i) { return static_cast<Memslot>(static_cast<int>(Memslot::kFirstAux) + i); }

// Each VM is a subscriber of the host kernel's own notifiers for the whole process: every invalidation of any window
// calls it (0.75 us with no VM, 39 us with 256). Its destructor ends it; vCPUs must be gone by then.
// Thread safe.
class KvmVm {
 public:
  // `system` must outlive the VM. Errors: those of KvmCallError.
  static absl::StatusOr<std::unique_ptr<KvmVm>> Create(const KvmSystem& system);

  // Gives the machine what a PC has beside processors and memory, all of it in the kernel: interrupt controllers and
  // the timer of old. Before vCPUs are made. Errors: those of KvmCallError.
  absl::Status AddPcChips();

  // Sets a level-triggered interrupt line of the chips, by its global system interrupt. Does not fail with chips there.
  void SetInterrupt(int gsi, bool up) const;

  // Makes `size` bytes of this process's memory at `hva` the guest's at `gpa`; replaces what the slot was before. All
  // three are multiples of 4 KiB. For 2 MiB pages, `gpa` and `hva` must be equal modulo 2 MiB. A write to a read-only
  // slot kills the guest.
  // Waits for every vCPU that is in a fault, so it is not called from a thread that serves faults, nor with a lock held
  // that such a thread may want.
  absl::Status SetMemslot(Memslot slot, Gpa gpa, ByteCount size, Hva hva, Protection protection);
  // Takes the slot's memory away from the guest. The slot must exist. Waits as SetMemslot does.
  absl::Status RemoveMemslot(Memslot slot);

  // KVM's counters, or null where the kernel has none (before 5.14).
  const KvmStats* stats() const { return stats_ ? &*stats_ : nullptr; }

  const KvmSystem& system() const { return system_; }
  int fd() const { return fd_.get(); }

 private:
  KvmVm(const KvmSystem& system, UniqueFd fd, std::optional<KvmStats> stats);

  const KvmSystem& system_;
  const UniqueFd fd_;
  const std::optional<KvmStats> stats_;
};

// The counters behind `fd`, a VM or vCPU; nothing where the kernel has none.
std::optional<KvmStats> OpenKvmStats(const KvmSystem& system, int fd);

}  // namespace quire

#endif  // QUIRE_VMM_KVM_KVM_VM_H_
