#include "vmm/kvm/machine_check.h"

#include <sys/ioctl.h>

#include <cstddef>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

// Registers.
constexpr uint32_t kFeatureControl = 0x3a;
constexpr uint32_t kMcgStatus = 0x17a;
constexpr uint32_t kMcgExtCtl = 0x4d0;

// Bits.
constexpr uint64_t kCapCtl = 1u << 8;           // MCG_CAP: there is an MCG_CTL
constexpr uint64_t kCapRecovery = 1u << 24;     // SER_P: uncorrected errors may be recoverable
constexpr uint64_t kCapLocal = 1u << 27;        // LMCE_P
constexpr uint64_t kMcgRestart = 1u << 0;       // MCG_STATUS: RIPV
constexpr uint64_t kMcgExact = 1u << 1;         // EIPV
constexpr uint64_t kMcgInProgress = 1u << 2;    // MCIP
constexpr uint64_t kMcgLocal = 1u << 3;         // LMCE_S
constexpr uint64_t kExtCtlLocal = 1u << 0;      // MCG_EXT_CTL: LMCE_EN
constexpr uint64_t kValid = uint64_t{1} << 63;  // MCi_STATUS
constexpr uint64_t kUncorrected = uint64_t{1} << 61;
constexpr uint64_t kEnabled = uint64_t{1} << 60;
constexpr uint64_t kHasMisc = uint64_t{1} << 59;
constexpr uint64_t kHasAddress = uint64_t{1} << 58;
constexpr uint64_t kSignaled = uint64_t{1} << 56;        // Intel
constexpr uint64_t kActionRequired = uint64_t{1} << 55;  // Intel
constexpr uint64_t kPoison = uint64_t{1} << 43;          // AMD
constexpr uint64_t kDataLoad = 0x134;
constexpr uint64_t kPhysicalPage = 2 << 6 | kPageShift;  // MCi_MISC
constexpr uint64_t kControlLocked = 1u << 0;             // IA32_FEATURE_CONTROL
constexpr uint64_t kControlVmx = 1u << 2;                // outside of SMX
constexpr uint64_t kControlLocal = 1u << 20;
constexpr uint32_t kCpuidVmx = 1u << 5;  // leaf 1, ecx
constexpr uint64_t kCr4Mce = 1u << 6;

constexpr uint8_t kMachineCheckVector = 18;
constexpr uint8_t kElsewhereBank = 1;

// KVM writes through these pointers, or takes as much as C programs pass.
static_assert(sizeof(kvm_x86_mce) == 64 && offsetof(kvm_x86_mce, bank) == 32);
static_assert(sizeof(kvm_vcpu_events) == 64);

uint64_t Supported(const KvmSystem& system) {
  uint64_t capabilities = 0;
  if (system.Capability(KVM_CAP_MCE) < kMachineCheckBanks) return 0;
  return ioctl(system.fd(), KVM_X86_GET_MCE_CAP_SUPPORTED, &capabilities) == 0 ? capabilities : 0;
}

// A kernel enables local machine checks where the firmware says that it may. The register is locked then, so that what
// else is in it has to be allowed too.
void OfferLocalChecks(const VcpuFile& vcpu, const KvmSystem& system) {
  const kvm_cpuid_entry2* const features = system.supported_cpuid().Find(1);
  const bool has_vmx = features != nullptr && (features->ecx & kCpuidVmx) != 0;
  // Where it cannot be set, all processors are told.
  (void)vcpu.WriteMsr(kFeatureControl, kControlLocked | kControlLocal | (has_vmx ? kControlVmx : 0));
}

}  // namespace

kvm_x86_mce LostPageCheck(Gpa page, MachineCheckScope scope) {
  kvm_x86_mce check = {};
  check.bank = kMachineCheckBank;
  check.status = kValid | kUncorrected | kEnabled | kHasMisc | kHasAddress;
  check.status |= scope == MachineCheckScope::kAmd ? kPoison : kSignaled | kActionRequired | kDataLoad;
  check.addr = page.value();
  check.misc = kPhysicalPage;
  check.mcg_status = kMcgInProgress | kMcgExact | kMcgRestart;
  if (scope == MachineCheckScope::kIntelLocal) check.mcg_status |= kMcgLocal;
  return check;
}

kvm_x86_mce CheckElsewhere() {
  kvm_x86_mce check = {};
  check.bank = kElsewhereBank;
  check.status = kValid | kUncorrected;
  check.mcg_status = kMcgInProgress | kMcgRestart;
  return check;
}

bool HasMachineChecks(const KvmSystem& system) { return (Supported(system) & kCapRecovery) != 0; }
bool HasLocalMachineChecks(const KvmSystem& system) { return (Supported(system) & kCapLocal) != 0; }

absl::Status SetUpMachineChecks(const VcpuFile& vcpu, const KvmSystem& system) {
  uint64_t capabilities = (Supported(system) & (kCapCtl | kCapRecovery | kCapLocal)) | kMachineCheckBanks;
  absl::Status status = vcpu.Call(KVM_X86_SETUP_MCE, &capabilities, "setting up machine checks");
  if (status.ok() && (capabilities & kCapLocal) != 0) OfferLocalChecks(vcpu, system);
  return status;
}

absl::StatusOr<bool> MachineChecks::IsPending() const {
  kvm_vcpu_events events;
  if (absl::Status status = vcpu_.Call(KVM_GET_VCPU_EVENTS, &events, "reading events"); !status.ok()) return status;
  return events.exception.nr == kMachineCheckVector &&
         (events.exception.pending != 0 || events.exception.injected != 0);
}

absl::StatusOr<MachineChecks::Readiness> MachineChecks::Look() const {
  const absl::StatusOr<bool> pending = IsPending();
  if (!pending.ok()) return pending.status();
  if (*pending) return Readiness::kPending;
  kvm_sregs sregs;
  if (absl::Status status = vcpu_.Call(KVM_GET_SREGS, &sregs, "reading registers"); !status.ok()) return status;
  if ((sregs.cr4 & kCr4Mce) == 0) return Readiness::kOff;
  const absl::StatusOr<uint64_t> status = vcpu_.ReadMsr(kMcgStatus);
  if (!status.ok()) return status.status();
  return (*status & kMcgInProgress) != 0 ? Readiness::kInHandler : Readiness::kReady;
}

absl::StatusOr<MachineCheckScope> MachineChecks::Scope() const {
  if (amd_) return MachineCheckScope::kAmd;
  const absl::StatusOr<uint64_t> enabled = vcpu_.ReadMsr(kMcgExtCtl);
  if (absl::IsNotFound(enabled.status())) return MachineCheckScope::kIntelAll;
  if (!enabled.ok()) return enabled.status();
  return (*enabled & kExtCtlLocal) != 0 ? MachineCheckScope::kIntelLocal : MachineCheckScope::kIntelAll;
}

absl::Status MachineChecks::Inject(kvm_x86_mce check) const {
  return vcpu_.Call(KVM_X86_SET_MCE, &check, "raising a machine check");
}

absl::StatusOr<bool> MachineChecks::Raise(Gpa page) {
  const absl::StatusOr<Readiness> readiness = Look();
  if (!readiness.ok()) return readiness.status();
  switch (*readiness) {
    case Readiness::kPending:
      return false;
    case Readiness::kOff:
      return absl::FailedPreconditionError("its kernel has not enabled machine checks (CR4.MCE)");
    case Readiness::kInHandler:
      return absl::FailedPreconditionError("its kernel was handling a machine check already");
    case Readiness::kReady:
      break;
  }
  int& raised = raised_[page.value()];
  if (raised == kMostChecksOfAPage) {
    return absl::FailedPreconditionError(
        absl::StrCat("its kernel has been told so ", raised, " times, and touches it still"));
  }
  const absl::StatusOr<MachineCheckScope> scope = Scope();
  if (!scope.ok()) return scope.status();
  if (absl::Status status = Inject(LostPageCheck(page, *scope)); !status.ok()) return status;
  // KVM takes one for a bank that is off, and drops it.
  const absl::StatusOr<bool> pending = IsPending();
  if (!pending.ok()) return pending.status();
  if (!*pending) return absl::FailedPreconditionError("its kernel has turned reports of memory errors off");
  ++raised;
  return *scope == MachineCheckScope::kIntelAll;
}

absl::Status MachineChecks::RaiseElsewhere() {
  const absl::StatusOr<Readiness> readiness = Look();
  if (!readiness.ok() || *readiness != Readiness::kReady) return readiness.status();
  return Inject(CheckElsewhere());
}

}  // namespace quire
