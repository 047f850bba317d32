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
#include "vmm/kvm/kvm_vcpu.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

constexpr uint64_t kCr0 = 0x8001'0033;  // PG WP NE ET MP PE; no AM: the program may set RFLAGS.AC
constexpr uint64_t kCr4 = 0x620;        // OSXMMEXCPT OSFXSR PAE: SSE2, but not AVX
constexpr uint64_t kEfer = 0xd00;       // NXE LMA LME
constexpr uint64_t kRflags = 0x3002;    // IOPL 3, interrupts off
constexpr uint16_t kTssSelector = 0x40;
constexpr int kMostExitsToSave = 1 << 16;

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

kvm_segment FlatSegment(uint16_t selector) {
  kvm_segment segment = {};
  segment.selector = selector;
  segment.limit = 0xffff'ffff;
  segment.present = segment.s = segment.g = 1;
  segment.dpl = 3;
  return segment;
}

kvm_segment CodeSegment() {
  kvm_segment segment = FlatSegment(0x33);
  segment.type = 11;  // code, readable, accessed
  segment.l = 1;
  return segment;
}

kvm_segment DataSegment() {
  kvm_segment segment = FlatSegment(0x2b);
  segment.type = 3;  // data, writable, accessed
  segment.db = 1;
  return segment;
}

kvm_segment TaskSegment(const VcpuStart& start) {
  kvm_segment segment = {};
  segment.selector = kTssSelector;
  segment.base = start.tss.value();
  segment.limit = start.tss_limit;
  segment.type = 11;  // 64-bit task state, busy
  segment.present = 1;
  return segment;
}

// Long mode at privilege level 3, as the processor is when an operating system has just entered a program.
void SetBootState(const VcpuStart& start, kvm_sregs& sregs) {
  sregs.cs = CodeSegment();
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = DataSegment();
  sregs.tr = TaskSegment(start);
  sregs.gdt.base = start.gdt.value();
  sregs.gdt.limit = start.gdt_limit;
  sregs.idt.base = start.idt.value();
  sregs.idt.limit = start.idt_limit;
  sregs.cr0 = kCr0;
  sregs.cr3 = start.page_tables.value();
  sregs.cr4 = kCr4;
  sregs.efer = kEfer;
}

kvm_regs BootRegisters(const VcpuStart& start) {
  kvm_regs regs = {};
  regs.rip = start.entry.value();
  regs.rsp = start.stack_pointer.value();
  regs.rdi = start.boot_info.value();
  regs.rsi = start.vcpu;
  regs.rflags = kRflags;
  return regs;
}

}  // namespace

KvmVcpu::KvmVcpu(UniqueFd fd, Mapping run, std::optional<KvmStats> stats, const WiredMemory& wired, int vcpu)
    : fd_(std::move(fd)), run_(std::move(run)), stats_(std::move(stats)), wired_(wired), vcpu_(vcpu) {}

absl::StatusOr<std::unique_ptr<KvmVcpu>> KvmVcpu::Create(const KvmVm& vm, const WiredMemory& wired, int vcpu) {
  absl::StatusOr<std::unique_ptr<KvmVcpu>> made = Make(vm, wired, vcpu);
  if (!made.ok()) return made;
  if (absl::Status status = (*made)->Boot(wired.StartOf(vcpu)); !status.ok()) return status;
  return made;
}

absl::StatusOr<std::unique_ptr<KvmVcpu>> KvmVcpu::Create(const KvmVm& vm, const WiredMemory& wired, int vcpu,
                                                         const VcpuState& state) {
  absl::StatusOr<std::unique_ptr<KvmVcpu>> made = Make(vm, wired, vcpu);
  if (!made.ok()) return made;
  if (absl::Status status = (*made)->Restore(state); !status.ok()) return status;
  return made;
}

absl::StatusOr<std::unique_ptr<KvmVcpu>> KvmVcpu::Make(const KvmVm& vm, const WiredMemory& wired, int vcpu) {
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
  auto made = absl::WrapUnique(new KvmVcpu(std::move(fd), *std::move(run), std::move(stats), wired, vcpu));
  if (ioctl(made->fd_.get(), kKvmSetCpuid, &vm.system().supported_cpuid()) != 0) {
    return KvmCallError(absl::StrCat("setting CPUID of vCPU ", vcpu), errno);
  }
  return made;
}

absl::Status KvmVcpu::Boot(const VcpuStart& start) {
  kvm_sregs sregs;
  if (ioctl(fd_.get(), KVM_GET_SREGS, &sregs) != 0) {
    return KvmCallError(absl::StrCat("reading registers of vCPU ", vcpu_), errno);
  }
  SetBootState(start, sregs);
  const kvm_regs regs = BootRegisters(start);
  if (ioctl(fd_.get(), KVM_SET_SREGS, &sregs) != 0 || ioctl(fd_.get(), KVM_SET_REGS, &regs) != 0) {
    return KvmCallError(absl::StrCat("setting registers of vCPU ", vcpu_), errno);
  }
  return absl::OkStatus();
}

absl::Status KvmVcpu::Restore(const VcpuState& state) {
  if (ioctl(fd_.get(), KVM_SET_SREGS, &state.system) != 0 || ioctl(fd_.get(), KVM_SET_REGS, &state.registers) != 0 ||
      ioctl(fd_.get(), KVM_SET_FPU, &state.floating_point) != 0) {
    return KvmCallError(absl::StrCat("setting registers of vCPU ", vcpu_), errno);
  }
  return absl::OkStatus();
}

// The instruction of an exit to user space is completed by the KVM_RUN after it, which need not enter the guest for
// that (api.rst, 5.).
absl::StatusOr<VcpuState> KvmVcpu::Save() {
  Kick();
  // A string instruction may come out once for each of its elements.
  int exits = 0;
  while (!std::holds_alternative<Interrupted>(Run())) {
    if (++exits < kMostExitsToSave) continue;
    return absl::InternalError(absl::StrCat("vCPU ", vcpu_, " was to be saved, and ran on"));
  }
  VcpuState state;
  if (ioctl(fd_.get(), KVM_GET_REGS, &state.registers) != 0 || ioctl(fd_.get(), KVM_GET_SREGS, &state.system) != 0 ||
      ioctl(fd_.get(), KVM_GET_FPU, &state.floating_point) != 0) {
    return KvmCallError(absl::StrCat("reading registers of vCPU ", vcpu_), errno);
  }
  return state;
}

int KvmVcpu::Enter() {
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

void KvmVcpu::Kick() {
  absl::MutexLock lock(&mutex_);
  run().immediate_exit = 1;
  if (runner_) pthread_kill(*runner_, KickSignal());
}

VcpuExit KvmVcpu::Run() {
  UnblockKickSignal();
  for (;;) {
    const int error = Enter();
    if (error == EINTR) return Interrupted{};
    if (error == EFAULT) return MemoryFault{};
    if (error == EHWPOISON) return Die("it touched memory that the host has lost to a hardware error");
    if (error != 0) return Die(absl::StrCat("KVM_RUN failed: ", std::strerror(error)));

    auto exit = DecodeExit(run());
    if (auto* serial = std::get_if<SerialOutput>(&exit)) return *serial;
    if (auto* end = std::get_if<GuestExit>(&exit)) return *end;
    if (auto* advice = std::get_if<AdviceWrite>(&exit)) return *advice;
    if (auto* request = std::get_if<WireWrite>(&exit)) return *request;
    if (auto* freeze = std::get_if<FreezePoint>(&exit)) return *freeze;
    if (auto* death = std::get_if<Death>(&exit)) return Die(std::move(death->sentence));
    if (auto* write = std::get_if<PortWrite>(&exit)) {
      if (write->port != kFaultPort) return *write;
      if (std::optional<Death> death = FaultDeath()) return *std::move(death);
      return *write;
    }
    const PortRead& read = std::get<PortRead>(exit);
    std::memset(read.data, 0xff, read.bytes);
  }
}

std::optional<Death> KvmVcpu::FaultDeath() const {
  kvm_regs regs;
  kvm_sregs sregs;
  if (ioctl(fd_.get(), KVM_GET_REGS, &regs) != 0 || ioctl(fd_.get(), KVM_GET_SREGS, &sregs) != 0) return std::nullopt;
  const std::optional<GuestFault> fault = wired_.FaultAt(Gva(regs.rip), vcpu_);
  if (!fault) return std::nullopt;
  regs.rip = fault->rip;
  regs.rsp = fault->rsp;
  regs.rflags = fault->rflags;
  return Death{absl::StrCat("vCPU ", vcpu_, ": ", DescribeFault(*fault, sregs.cr2)), FormatRegisters(regs, sregs)};
}

Death KvmVcpu::Die(std::string sentence) const {
  kvm_regs regs;
  kvm_sregs sregs;
  const bool read = ioctl(fd_.get(), KVM_GET_REGS, &regs) == 0 && ioctl(fd_.get(), KVM_GET_SREGS, &sregs) == 0;
  return {absl::StrCat("vCPU ", vcpu_, ": ", sentence),
          read ? FormatRegisters(regs, sregs) : absl::StrCat("registers unknown: ", std::strerror(errno))};
}

}  // namespace quire
