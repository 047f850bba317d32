#include "vmm/kvm/pc_vcpu.h"

#include <linux/kvm.h>

#include <cerrno>
#include <cstring>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/pc_cpuid.h"

namespace quire {
namespace {

constexpr uint64_t kCr0Protected = 0x11;    // ET PE
constexpr uint64_t kCr0Long = 0x8000'0011;  // PG ET PE
constexpr uint64_t kCr4Long = 0x20;         // PAE
constexpr uint64_t kEferLong = 0x500;       // LMA LME
constexpr uint64_t kRflags = 2;             // nothing: interrupts off

kvm_segment FlatSegment(uint16_t selector, uint8_t type) {
  kvm_segment segment = {};
  segment.selector = selector;
  segment.limit = 0xffff'ffff;
  segment.type = type;
  segment.present = segment.s = segment.g = segment.db = 1;
  return segment;
}

void SetSegments(const PcVcpu::Start& start, kvm_sregs& sregs) {
  sregs.cs = FlatSegment(start.code, 11);  // code, readable, accessed
  if (start.mode == PcVcpu::Start::Mode::kLong) {
    sregs.cs.l = 1;
    sregs.cs.db = 0;
  }
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = FlatSegment(start.data, 3);  // data, writable, accessed
  sregs.tr = {};
  sregs.tr.selector = start.task;
  sregs.tr.limit = 0x67;
  sregs.tr.type = 11;  // task state, busy
  sregs.tr.present = 1;
}

void SetMode(const PcVcpu::Start& start, kvm_sregs& sregs) {
  SetSegments(start, sregs);
  sregs.gdt.base = start.gdt.value();
  sregs.gdt.limit = start.gdt_limit;
  sregs.idt = {};
  if (start.mode == PcVcpu::Start::Mode::kProtected) {
    sregs.cr0 = kCr0Protected;
    return;
  }
  sregs.cr0 = kCr0Long;
  sregs.cr3 = start.page_tables.value();
  sregs.cr4 = kCr4Long;
  sregs.efer = kEferLong;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PcVcpu>> PcVcpu::Create(const KvmVm& vm, int vcpu, int vcpus) {
  const bool tsc_deadline = vm.system().Capability(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
  const CpuidTable cpuid = PcCpuid(vm.system().supported_cpuid(), vcpu, vcpus, tsc_deadline);
  absl::StatusOr<std::unique_ptr<VcpuFile>> file = VcpuFile::Create(vm, vcpu, cpuid);
  if (!file.ok()) return file.status();
  std::optional<MachineChecks> checks;
  if (HasMachineChecks(vm.system())) {
    if (absl::Status status = SetUpMachineChecks(**file, vm.system()); !status.ok()) return status;
    checks.emplace(**file, IsAmd(cpuid));
  }
  return absl::WrapUnique(new PcVcpu(*std::move(file), checks));
}

absl::StatusOr<bool> PcVcpu::RaiseMachineCheck(Gpa page) {
  if (!checks_)
    return absl::FailedPreconditionError("its kernel cannot be told: this host's KVM has no machine checks");
  return checks_->Raise(page);
}

absl::Status PcVcpu::JoinMachineCheck() { return checks_ ? checks_->RaiseElsewhere() : absl::OkStatus(); }

absl::Status PcVcpu::Boot(const Start& start) {
  kvm_sregs sregs;
  if (absl::Status status = file_->Call(KVM_GET_SREGS, &sregs, "reading registers"); !status.ok()) return status;
  SetMode(start, sregs);
  kvm_regs regs = {};
  regs.rip = start.rip;
  regs.rsp = start.rsp;
  regs.rax = start.rax;
  regs.rbx = start.rbx;
  regs.rsi = start.rsi;
  regs.rflags = kRflags;
  absl::Status status = file_->Call(KVM_SET_SREGS, &sregs, "setting registers");
  status.Update(file_->Call(KVM_SET_REGS, &regs, "setting registers"));
  return status;
}

PcExit PcVcpu::Run() {
  const kvm_run& run = file_->run();
  // The kernel goes on with a string instruction only when all of its elements have been seen to.
  if (elements_done_ > 0 && elements_done_ < run.io.count) return PortAccess();
  elements_done_ = 0;
  for (;;) {
    const int error = file_->Enter();
    // A processor that has not been started, or has been stopped, says so on every signal.
    if (error == EINTR || error == EAGAIN) return Interrupted{};
    if (error == EFAULT) return MemoryFault{};
    if (error == EHWPOISON) return Die("it touched memory that the host has lost to a hardware error");
    if (error != 0) return Die(absl::StrCat("KVM_RUN failed: ", std::strerror(error)));
    switch (run.exit_reason) {
      case KVM_EXIT_IO:
        return PortAccess();
      case KVM_EXIT_MMIO:
        return MemoryAccess();
      case KVM_EXIT_INTR:
        return Interrupted{};
      case KVM_EXIT_SHUTDOWN:
        return TripleFault{};
      case KVM_EXIT_IRQ_WINDOW_OPEN:
      case KVM_EXIT_SET_TPR:
        continue;
      default:
        return Die(DescribeExit(run));
    }
  }
}

DeviceAccess PcVcpu::PortAccess() {
  kvm_run& run = file_->run();
  auto* const data = reinterpret_cast<std::byte*>(&run) + run.io.data_offset + elements_done_ * run.io.size;
  ++elements_done_;
  return {.bus = DeviceAccess::Bus::kPort,
          .address = run.io.port,
          .data = absl::MakeSpan(data, run.io.size),
          .write = run.io.direction == KVM_EXIT_IO_OUT};
}

DeviceAccess PcVcpu::MemoryAccess() const {
  kvm_run& run = file_->run();
  return {.bus = DeviceAccess::Bus::kMemory,
          .address = run.mmio.phys_addr,
          .data = absl::MakeSpan(reinterpret_cast<std::byte*>(run.mmio.data), run.mmio.len),
          .write = run.mmio.is_write != 0};
}

}  // namespace quire
