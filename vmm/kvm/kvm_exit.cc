#include "vmm/kvm/kvm_exit.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

constexpr absl::string_view kVectorNames[] = {
    "divide error (#DE)",
    "debug exception (#DB)",
    "non-maskable interrupt (NMI)",
    "breakpoint (#BP)",
    "overflow (#OF)",
    "bound range exceeded (#BR)",
    "invalid instruction (#UD)",
    "no floating point unit (#NM)",
    "double fault (#DF)",
    "coprocessor overrun",
    "invalid task state (#TS)",
    "segment not present (#NP)",
    "stack fault (#SS)",
    "general protection fault (#GP)",
    "page fault (#PF)",
    "reserved exception 15",
    "floating point error (#MF)",
    "alignment check (#AC)",
    "machine check (#MC)",
    "SIMD floating point error (#XM)",
    "virtualization exception (#VE)",
    "control protection fault (#CP)",
};

std::string VectorName(int vector) {
  if (vector < static_cast<int>(std::size(kVectorNames))) return std::string(kVectorNames[vector]);
  return absl::StrCat("exception ", vector);
}

bool InStackGap(uint64_t address) {
  const uint64_t offset = address - kStacksAddress.value();
  return offset < QUIRE_MAX_VCPUS * kStackStride && offset % kStackStride < kStackStride - QUIRE_STACK_SIZE;
}

// Bits of the error code: 0 the page is mapped, 1 write, 4 instruction fetch (Intel SDM volume 3, 4.7).
std::string DescribePageFault(uint64_t error_code, uint64_t cr2) {
  const bool mapped = error_code & 1, write = error_code & 2, fetch = error_code & 16;
  const char* const access = fetch ? "execution of" : write ? "write to" : "read of";
  const char* const right = fetch ? "executable" : write ? "writable" : "readable";
  std::string text = absl::StrFormat("%s 0x%x, which is not %s", access, cr2, mapped ? right : "mapped");
  if (!mapped && InStackGap(cr2)) absl::StrAppend(&text, ": its stack is full");
  return text;
}

DecodedExit DecodePort(kvm_run& run) {
  auto* const data = reinterpret_cast<uint8_t*>(&run) + run.io.data_offset;
  const uint32_t bytes = uint32_t{run.io.size} * run.io.count;
  if (run.io.direction == KVM_EXIT_IO_IN) return PortRead{data, bytes};
  if (run.io.port == QUIRE_SERIAL_PORT) {
    // The console port is one byte wide: of a wider access only the first byte reaches it.
    return SerialOutput{absl::string_view(reinterpret_cast<char*>(data), run.io.size == 1 ? bytes : 1)};
  }
  uint32_t value = 0;
  std::memcpy(&value, data, std::min<size_t>(run.io.size, sizeof(value)));
  if (run.io.port == QUIRE_EXIT_PORT) return GuestExit{value};
  if (run.io.port == QUIRE_ADVISE_PORT) return AdviceWrite{value};
  if (run.io.port == QUIRE_WIRE_PORT) return WireWrite{value};
  if (run.io.port == QUIRE_FREEZE_PORT) return FreezePoint{};
  if (run.io.port == QUIRE_REST_PORT) return RestPoint{};
  return PortWrite{run.io.port, value};
}

std::string DescribeMmio(const kvm_run& run) {
  return absl::StrFormat("%s of %u bytes at guest physical address 0x%x, where there is no %smemory",
                         run.mmio.is_write ? "write" : "read", run.mmio.len, run.mmio.phys_addr,
                         run.mmio.is_write ? "writable " : "");
}

// The instruction, if KVM passed it on: flags in data[0], then its length and bytes (struct kvm_run,
// emulation_failure).
std::string FailedInstruction(const kvm_run& run) {
  const auto& failure = run.emulation_failure;
  if (failure.ndata < 3 || (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) == 0) return "";
  std::string text = ":";
  const size_t size = std::min<size_t>(failure.insn_size, sizeof(failure.insn_bytes));
  for (size_t i = 0; i < size; ++i) absl::StrAppendFormat(&text, " %02x", failure.insn_bytes[i]);
  return text;
}

std::string DescribeInternalError(const kvm_run& run) {
  switch (run.internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
      return absl::StrCat("KVM could not emulate an instruction", FailedInstruction(run));
    case KVM_INTERNAL_ERROR_SIMUL_EX:
      return "KVM met one exception while delivering another";
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      return "KVM could not deliver an exception";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
      return "KVM met an exit of the processor that it did not expect";
    default:
      return absl::StrCat("KVM internal error ", run.internal.suberror);
  }
}

std::string FormatSegment(const char* name, const kvm_segment& s) {
  return absl::StrFormat("%s=%04x base=%x limit=%x dpl=%d", name, s.selector, s.base, s.limit, s.dpl);
}

}  // namespace

DecodedExit DecodeExit(kvm_run& run) {
  if (run.exit_reason == KVM_EXIT_IO) return DecodePort(run);
  return Death{DescribeExit(run), ""};
}

std::string DescribeExit(const kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_SHUTDOWN:
      return "triple fault: an exception could not be delivered to its handler";
    case KVM_EXIT_INTERNAL_ERROR:
      return DescribeInternalError(run);
    case KVM_EXIT_FAIL_ENTRY:
      return absl::StrFormat("the processor refused to run the guest (hardware reason 0x%x)",
                             run.fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_MMIO:
      return DescribeMmio(run);
    case KVM_EXIT_HLT:
      return "halted for good: no interrupt ever arrives";
    case KVM_EXIT_EXCEPTION:
      return absl::StrCat("KVM did not handle exception ", run.ex.exception);
    case KVM_EXIT_UNKNOWN:
      return absl::StrFormat("KVM does not know the processor's exit (hardware reason 0x%x)",
                             run.hw.hardware_exit_reason);
    default:
      return absl::StrCat("KVM stopped it for a reason that no guest gives (exit ", run.exit_reason, ")");
  }
}

std::string DescribeFault(const GuestFault& fault, uint64_t cr2) {
  constexpr int kPageFault = 14;
  std::string text = absl::StrFormat("%s at rip 0x%x", VectorName(fault.vector), fault.rip);
  if (fault.vector == kPageFault) {
    absl::StrAppend(&text, ": ", DescribePageFault(fault.error_code, cr2));
  } else if (fault.error_code != 0) {
    absl::StrAppendFormat(&text, ", error code 0x%x", fault.error_code);
  }
  return text;
}

std::string FormatRegisters(const kvm_regs& r, const kvm_sregs& s) {
  return absl::StrCat(absl::StrFormat("rip=%016x rflags=%08x rsp=%016x rbp=%016x\n", r.rip, r.rflags, r.rsp, r.rbp),
                      absl::StrFormat("rax=%016x rbx=%016x rcx=%016x rdx=%016x\n", r.rax, r.rbx, r.rcx, r.rdx),
                      absl::StrFormat("rsi=%016x rdi=%016x r8 =%016x r9 =%016x\n", r.rsi, r.rdi, r.r8, r.r9),
                      absl::StrFormat("r10=%016x r11=%016x r12=%016x r13=%016x r14=%016x r15=%016x\n", r.r10, r.r11,
                                      r.r12, r.r13, r.r14, r.r15),
                      absl::StrFormat("cr0=%x cr2=%x cr3=%x cr4=%x efer=%x %s %s", s.cr0, s.cr2, s.cr3, s.cr4, s.efer,
                                      FormatSegment("cs", s.cs), FormatSegment("ss", s.ss)));
}

}  // namespace quire
