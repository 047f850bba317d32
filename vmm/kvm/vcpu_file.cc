// How a kick gets through, wherever the vCPU's thread is.
//
// Kick(), under the mutex:                        Enter(), on the vCPU's thread:
//   1. immediate_exit = 1                           a. under the mutex: runner = this thread
//   2. if there is a runner: signal it              b. KVM_RUN
//                                                   c. under the mutex: no runner; if EINTR: immediate_exit = 0
//
// The signal alone has a gap: arriving between a and b it is handled (by doing nothing) before KVM_RUN begins, and the
// guest runs on. immediate_exit closes it: KVM looks at it after the point from which on a signal ends KVM_RUN. A kick
// before a sends no signal, and the KVM_RUN that follows sees immediate_exit. A kick that comes as KVM_RUN returns for
// another reason leaves immediate_exit set for the next one. A signal that comes late, after c, interrupts nothing
// (SA_RESTART) or ends the next KVM_RUN for nothing, which is why Interrupted may come without a kick.
//
// Source: Linux, Documentation/virt/kvm/api.rst, 5. The kvm_run structure, immediate_exit.
#include "vmm/kvm/vcpu_file.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"

namespace quire {
namespace {

// Real-time, so that it means nothing to anybody else. Sent to one thread only, the one inside Enter.
int KickSignal() { return SIGRTMIN; }

void InstallKickHandler() {
  static const bool installed = [] {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    action.sa_flags = SA_RESTART;
    return sigaction(KickSignal(), &action, nullptr) == 0;
  }();
  QUIRE_CHECK(installed);
}

// Whoever made this thread may have blocked all signals.
void UnblockKickSignal() {
  thread_local const bool unblocked = [] {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, KickSignal());
    return pthread_sigmask(SIG_UNBLOCK, &set, nullptr) == 0;
  }();
  QUIRE_CHECK(unblocked);
}

// KVM_GET_MSRS and KVM_SET_MSRS with the numbers that C programs get.
constexpr unsigned long kKvmGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
constexpr unsigned long kKvmSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);

}  // namespace

// Struct kvm_msrs for one register. <linux/kvm.h> has an empty struct in it, which C++ lays out differently from C.
struct VcpuFile::OneMsr {
  uint32_t count = 1;
  uint32_t padding = 0;
  kvm_msr_entry entry;
};

VcpuFile::VcpuFile(UniqueFd fd, Mapping run, std::optional<KvmStats> stats, int vcpu)
    : fd_(std::move(fd)), run_(std::move(run)), stats_(std::move(stats)), vcpu_(vcpu) {}

absl::StatusOr<std::unique_ptr<VcpuFile>> VcpuFile::Create(const KvmVm& vm, int vcpu, const CpuidTable& cpuid) {
  InstallKickHandler();
  const std::string attempted = absl::StrCat("creating vCPU ", vcpu);
  UniqueFd fd(ioctl(vm.fd(), KVM_CREATE_VCPU, vcpu));
  if (!fd.valid()) {
    if (errno != EINVAL) return KvmCallError(attempted, errno);
    return absl::FailedPreconditionError(
        absl::StrCat(attempted, " failed: this host's KVM gives a guest at most ", vm.system().max_vcpus(), " vCPUs"));
  }
  absl::StatusOr<Mapping> run =
      Mapping::Map(vm.system().vcpu_run_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (!run.ok()) return run.status();
  std::optional<KvmStats> stats = OpenKvmStats(vm.system(), fd.get());
  auto made = absl::WrapUnique(new VcpuFile(std::move(fd), *std::move(run), std::move(stats), vcpu));
  // KVM writes to what it is given only where that is an error.
  absl::Status status = made->Call(kKvmSetCpuid, const_cast<CpuidTable*>(&cpuid), "setting CPUID");
  if (!status.ok()) return status;
  return made;
}

absl::Status VcpuFile::Call(unsigned long request, void* argument, absl::string_view what) const {
  if (ioctl(fd_.get(), request, argument) >= 0) return absl::OkStatus();
  return KvmCallError(absl::StrCat(what, " of vCPU ", vcpu_), errno);
}

absl::StatusOr<uint64_t> VcpuFile::ReadMsr(uint32_t number) const {
  OneMsr msr = {.entry = {.index = number, .reserved = 0, .data = 0}};
  if (absl::Status status = CallForMsr(kKvmGetMsrs, "reading", msr); !status.ok()) return status;
  return msr.entry.data;
}

absl::Status VcpuFile::WriteMsr(uint32_t number, uint64_t value) const {
  OneMsr msr = {.entry = {.index = number, .reserved = 0, .data = value}};
  return CallForMsr(kKvmSetMsrs, "setting", msr);
}

// These return how many registers they have dealt with.
absl::Status VcpuFile::CallForMsr(unsigned long request, absl::string_view what, OneMsr& msr) const {
  const int done = ioctl(fd_.get(), request, &msr);
  const std::string attempted =
      absl::StrFormat("%s model-specific register 0x%x of vCPU %d", what, msr.entry.index, vcpu_);
  if (done < 0) return KvmCallError(attempted, errno);
  return done == 1 ? absl::OkStatus() : absl::NotFoundError(absl::StrCat(attempted, " is not possible"));
}

int VcpuFile::Enter() {
  UnblockKickSignal();
  {
    absl::MutexLock lock(&mutex_);
    runner_ = pthread_self();
  }
  const int error = ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno;
  absl::MutexLock lock(&mutex_);
  runner_.reset();
  if (error == EINTR) run().immediate_exit = 0;
  return error;
}

void VcpuFile::Kick() {
  absl::MutexLock lock(&mutex_);
  run().immediate_exit = 1;
  if (runner_) pthread_kill(*runner_, KickSignal());
}

Death VcpuFile::Die(std::string sentence) const {
  kvm_regs regs;
  kvm_sregs sregs;
  const bool read = ioctl(fd_.get(), KVM_GET_REGS, &regs) == 0 && ioctl(fd_.get(), KVM_GET_SREGS, &sregs) == 0;
  return {absl::StrCat("vCPU ", vcpu_, ": ", sentence),
          read ? FormatRegisters(regs, sregs) : absl::StrCat("registers unknown: ", std::strerror(errno))};
}

}  // namespace quire
