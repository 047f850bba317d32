// Machine checks: how the kernel of a guest is told that a page of its memory is lost.
//
// What the guest finds in bank kMachineCheckBank of the processor that touched the page (Intel SDM volume 3, 16.9.2,
// "data load error"; AMD APM volume 2, 9.3.2), all of it uncorrected, but recoverable: whoever used the page ends, and
// the others go on:
//
//                  63    61    60    59      58      56  55  43      15     0
//   MCi_STATUS     VAL | UC  | EN  | MISCV | ADDRV |                          both
//                                                  | S | AR |      | 0x134 |  Intel
//                                                           | POISON |        AMD
//   MCi_ADDR       the page's guest physical address
//   MCi_MISC       bits 8 to 6: 2, a physical address; bits 5 to 0: 12, of which the bits from 12 on count
//   MCG_STATUS     MCIP | EIPV | RIPV: the instruction is the one that touched it, and can be run again; LMCE
//
// Intel's processors tell all of a package at once, unless the kernel has enabled local machine checks (LMCE), which it
// is offered. A kernel that gets one waits for all processors to get there, for a second (Linux, mce_start).
//
// Whether the kernel can take one is looked at first: KVM answers one that it cannot with a triple fault, or not at
// all.
#ifndef QUIRE_VMM_KVM_MACHINE_CHECK_H_
#define QUIRE_VMM_KVM_MACHINE_CHECK_H_

#include <linux/kvm.h>

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/vcpu_file.h"

namespace quire {

// Two that Linux treats as any other, for no model; QEMU has them too.
inline constexpr uint8_t kMachineCheckBank = 9;
inline constexpr uint8_t kMachineCheckBanks = 10;
// How often a kernel is told of the same page on one processor. Linux needs one of these, and panics after ten that it
// could not act on. A kernel that comes back more often does nothing about it, and would for ever.
inline constexpr int kMostChecksOfAPage = 16;

// Who has to be told of a lost page.
enum class MachineCheckScope : uint8_t {
  kIntelAll,    // every processor of the package
  kIntelLocal,  // the one that touched it
  kAmd,         // the same
};

// What the processor gets that touched the page at `page`. Pure.
kvm_x86_mce LostPageCheck(Gpa page, MachineCheckScope scope);
// What the others get, of kIntelAll: that there is one somewhere. Pure.
kvm_x86_mce CheckElsewhere();

// Whether guests of this KVM can be told of lost pages.
bool HasMachineChecks(const KvmSystem& system);
// Whether their kernels can have it told on one processor of Intel's only.
bool HasLocalMachineChecks(const KvmSystem& system);
// Before the vCPU runs, once it has its CPUID. HasMachineChecks. Errors: those of KvmCallError.
absl::Status SetUpMachineChecks(const VcpuFile& vcpu, const KvmSystem& system);

// The machine checks of one vCPU, which has been set up for them. Called between Enters, on their thread.
class MachineChecks {
 public:
  // `amd`: what its CPUID says (IsAmd).
  MachineChecks(const VcpuFile& vcpu, bool amd) : vcpu_(vcpu), amd_(amd) {}

  // The vCPU has touched the lost page at `page`: its next Enter begins with the machine check. Or with one that it has
  // been given already; then it touches the page again afterwards. Returns whether all others are to CheckElsewhere.
  // FailedPrecondition: its kernel cannot take one now, or has been told of the page kMostChecksOfAPage times, and why:
  // "its kernel ...".
  absl::StatusOr<bool> Raise(Gpa page);
  // Another vCPU has raised one that all are to have. One that cannot take it now is left out.
  absl::Status RaiseElsewhere();

 private:
  enum class Readiness : uint8_t { kReady, kPending, kOff, kInHandler };
  absl::StatusOr<Readiness> Look() const;
  absl::StatusOr<bool> IsPending() const;
  absl::StatusOr<MachineCheckScope> Scope() const;
  absl::Status Inject(kvm_x86_mce check) const;

  const VcpuFile& vcpu_;
  const bool amd_;
  absl::flat_hash_map<uint64_t, int> raised_;  // how often, by the page's address
};

}  // namespace quire

#endif  // QUIRE_VMM_KVM_MACHINE_CHECK_H_
