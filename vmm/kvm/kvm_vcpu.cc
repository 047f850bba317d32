#include "vmm/kvm/kvm_vcpu.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

constexpr uint64_t kCr0 = 0x8001'0033;  // PG WP NE ET MP PE; no AM: the program may set RFLAGS.AC
constexpr uint64_t kCr4 = 0x620;        // OSXMMEXCPT OSFXSR PAE: SSE2, but not AVX
constexpr uint64_t kEfer = 0xd00;       // NXE LMA LME
constexpr uint64_t kRflags = 0x3002;    // IOPL 3, interrupts off
constexpr uint16_t kTssSelector = 0x40;
constexpr int kMostExitsToSave = 1 << 16;

constexpr absl::string_view kReading = "reading registers";
constexpr absl::string_view kSetting = "setting registers";

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
  absl::StatusOr<std::unique_ptr<VcpuFile>> file = VcpuFile::Create(vm, vcpu, vm.system().supported_cpuid());
  if (!file.ok()) return file.status();
  return absl::WrapUnique(new KvmVcpu(*std::move(file), wired));
}

absl::Status KvmVcpu::Boot(const VcpuStart& start) {
  VcpuState state = {};
  if (absl::Status status = ReadState(state); !status.ok()) return status;
  SetBootState(start, state.system);
  state.registers = BootRegisters(start);
  return Restore(state);
}

absl::Status KvmVcpu::ReadState(VcpuState& state) const {
  absl::Status status = file_->Call(KVM_GET_REGS, &state.registers, kReading);
  status.Update(file_->Call(KVM_GET_SREGS, &state.system, kReading));
  status.Update(file_->Call(KVM_GET_FPU, &state.floating_point, kReading));
  return status;
}

absl::Status KvmVcpu::Restore(VcpuState state) {
  absl::Status status = file_->Call(KVM_SET_SREGS, &state.system, kSetting);
  status.Update(file_->Call(KVM_SET_REGS, &state.registers, kSetting));
  status.Update(file_->Call(KVM_SET_FPU, &state.floating_point, kSetting));
  return status;
}

// The instruction of an exit to user space is completed by the KVM_RUN after it, which need not enter the guest for
// that (api.rst, 5.).
absl::StatusOr<VcpuState> KvmVcpu::Save() {
  Kick();
  // A string instruction may come out once for each of its elements.
  int exits = 0;
  while (!std::holds_alternative<Interrupted>(Run())) {
    if (++exits < kMostExitsToSave) continue;
    return absl::InternalError(absl::StrCat("vCPU ", file_->number(), " was to be saved, and ran on"));
  }
  VcpuState state;
  if (absl::Status status = ReadState(state); !status.ok()) return status;
  return state;
}

VcpuExit KvmVcpu::Run() {
  for (;;) {
    const int error = file_->Enter();
    if (error == EINTR) return Interrupted{};
    if (error == EFAULT) return MemoryFault{};
    if (error == EHWPOISON) return Die("it touched memory that the host has lost to a hardware error");
    if (error != 0) return Die(absl::StrCat("KVM_RUN failed: ", std::strerror(error)));

    auto exit = DecodeExit(file_->run());
    if (auto* serial = std::get_if<SerialOutput>(&exit)) return *serial;
    if (auto* end = std::get_if<GuestExit>(&exit)) return *end;
    if (auto* advice = std::get_if<AdviceWrite>(&exit)) return *advice;
    if (auto* request = std::get_if<WireWrite>(&exit)) return *request;
    if (auto* freeze = std::get_if<FreezePoint>(&exit)) return *freeze;
    if (auto* rest = std::get_if<RestPoint>(&exit)) return *rest;
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
  VcpuState state;
  if (!ReadState(state).ok()) return std::nullopt;
  kvm_regs& regs = state.registers;
  const std::optional<GuestFault> fault = wired_.FaultAt(Gva(regs.rip), file_->number());
  if (!fault) return std::nullopt;
  regs.rip = fault->rip;
  regs.rsp = fault->rsp;
  regs.rflags = fault->rflags;
  return Death{absl::StrCat("vCPU ", file_->number(), ": ", DescribeFault(*fault, state.system.cr2)),
               FormatRegisters(regs, state.system)};
}

}  // namespace quire
