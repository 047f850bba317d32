#include "workloads/payload/testing/native_guest.h"

#include <elf.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <vector>

#include "base/check.h"

// Switches to the guest's stack and jumps to its entry point, with the arguments of the guest ABI. The signal handler
// brings the thread back by resuming it at quire_native_leave.
asm(R"(
  .text
quire_native_enter:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, quire_native_stack(%rip)
  mov %rcx, %rsp
  push $0
  jmp *%rdx
quire_native_leave:
  mov quire_native_stack(%rip), %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
  .local quire_native_stack
  .comm quire_native_stack, 8, 8
)");

extern "C" {
void quire_native_enter(quire_boot_info* boot, uint64_t vcpu, uint64_t entry, void* stack_top)
    __attribute__((visibility("hidden")));
void quire_native_leave() __attribute__((visibility("hidden")));
}

namespace quire {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
constexpr size_t kConsoleSize = 4096;
constexpr size_t kMostAdvice = 16;

// What the handler may touch: plain memory, made beforehand.
struct Console {
  NativeOutcome::Kind kind;
  uint32_t status;
  uint16_t port;
  int signal;
  uint64_t fault_address;
  size_t size;
  char text[kConsoleSize];
  const quire_boot_info* boot;
  struct Requests {
    size_t count;
    NativeAdvice all[kMostAdvice];

    void Add(const NativeAdvice& request) {
      if (count < kMostAdvice) all[count++] = request;
    }
  };
  Requests advice;
  Requests wire_requests;
};
Console console;

// The length of the OUT instruction at `code`, with its port and value; 0 if it is none.
int DecodeOut(const uint8_t* code, const greg_t* registers, uint16_t& port, uint32_t& value) {
  value = static_cast<uint32_t>(registers[REG_RAX]);
  if (code[0] == 0xee || code[0] == 0xe6) value &= 0xff;
  if (code[0] == 0xee || code[0] == 0xef) return port = static_cast<uint16_t>(registers[REG_RDX]), 1;
  if (code[0] == 0xe6 || code[0] == 0xe7) return port = code[1], 2;
  return 0;
}

// Whether the program may go on after an OUT.
bool CarryOut(uint16_t port, uint32_t value) {
  if (port == QUIRE_SERIAL_PORT) {
    if (console.size < kConsoleSize) console.text[console.size++] = static_cast<char>(value);
    return true;
  }
  if (port == QUIRE_ADVISE_PORT) {
    console.advice.Add({.value = value, .begin = console.boot->huge_begin, .bytes = console.boot->huge_bytes});
    return true;
  }
  if (port == QUIRE_WIRE_PORT) {
    console.wire_requests.Add({.value = value, .begin = console.boot->wire_begin, .bytes = console.boot->wire_bytes});
    return true;
  }
  if (port == QUIRE_FREEZE_PORT) return true;  // nobody wants clones
  return false;
}

void HandleSignal(int signal, siginfo_t* info, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  uint32_t value = 0;
  uint16_t port = 0;
  // A general protection fault has no address; a page fault may be about the code itself.
  const bool protection_fault = signal == SIGSEGV && info->si_code == SI_KERNEL;
  const int length =
      protection_fault ? DecodeOut(reinterpret_cast<const uint8_t*>(registers[REG_RIP]), registers, port, value) : 0;
  if (length != 0 && CarryOut(port, value)) {
    registers[REG_RIP] += length;
    return;
  }
  if (length == 0) {
    console.kind = NativeOutcome::kSignal;
    console.signal = signal;
    console.fault_address = reinterpret_cast<uint64_t>(info->si_addr);
  } else if (port == QUIRE_EXIT_PORT) {
    console.kind = NativeOutcome::kExit;
    console.status = value;
  } else {
    console.kind = NativeOutcome::kUnknownPort;
    console.port = port;
  }
  registers[REG_RIP] = reinterpret_cast<greg_t>(&quire_native_leave);
}

// Takes the signals over while it lives, on a stack of their own.
class SignalScope {
 public:
  SignalScope() : stack_(1 << 16) {
    const stack_t stack = {.ss_sp = stack_.data(), .ss_flags = 0, .ss_size = stack_.size()};
    QUIRE_CHECK(sigaltstack(&stack, &old_stack_) == 0);
    struct sigaction action = {};
    action.sa_sigaction = HandleSignal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (size_t i = 0; i < std::size(kSignals); ++i) QUIRE_CHECK(sigaction(kSignals[i], &action, &old_[i]) == 0);
  }
  ~SignalScope() {
    for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &old_[i], nullptr);
    sigaltstack(&old_stack_, nullptr);
  }

 private:
  std::vector<char> stack_;
  stack_t old_stack_ = {};
  std::array<struct sigaction, std::size(kSignals)> old_ = {};
};

const Elf64_Ehdr& HeaderOf(absl::Span<const std::byte> elf) { return *reinterpret_cast<const Elf64_Ehdr*>(elf.data()); }

std::vector<Elf64_Phdr> SegmentsOf(absl::Span<const std::byte> elf) {
  const Elf64_Ehdr& header = HeaderOf(elf);
  std::vector<Elf64_Phdr> segments;
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    std::memcpy(&segment, elf.data() + header.e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type == PT_LOAD) segments.push_back(segment);
  }
  return segments;
}

// The program at the addresses that it is linked for.
Mapping Load(absl::Span<const std::byte> elf) {
  const ProgramImage image = ImageOf(elf);
  const uint64_t begin = image.begin / kPageSize * kPageSize;
  const ByteCount size = PageCount::Ceil(ByteCount::Bytes(image.end - begin)).bytes();
  void* const data = mmap(reinterpret_cast<void*>(begin), size.in_bytes(), PROT_READ | PROT_WRITE | PROT_EXEC,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  QUIRE_CHECK(data == reinterpret_cast<void*>(begin));
  for (const Elf64_Phdr& segment : SegmentsOf(elf))
    std::memcpy(reinterpret_cast<void*>(segment.p_vaddr), elf.data() + segment.p_offset, segment.p_filesz);
  return Mapping(data, size);
}

}  // namespace

ProgramImage ImageOf(absl::Span<const std::byte> elf) {
  const std::vector<Elf64_Phdr> segments = SegmentsOf(elf);
  QUIRE_CHECK(!segments.empty());
  ProgramImage image{.begin = ~uint64_t{0}, .end = 0, .entry = HeaderOf(elf).e_entry};
  for (const Elf64_Phdr& segment : segments) {
    image.begin = std::min(image.begin, segment.p_vaddr);
    image.end = std::max(image.end, segment.p_vaddr + segment.p_memsz);
  }
  return image;
}

NativeGuest::NativeGuest(ByteCount memory, uint32_t vcpus, uint64_t seed) {
  memory_ = *Mapping::Map(memory + kOnePage.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  QUIRE_CHECK(mprotect(memory_.data() + memory.in_bytes(), kPageSize, PROT_NONE) == 0);
  boot_.magic = QUIRE_ABI_MAGIC;
  boot_.version = QUIRE_ABI_VERSION;
  boot_.vcpus = vcpus;
  boot_.memory = memory_.hva().value();
  boot_.memory_bytes = memory.in_bytes();
  boot_.seed = seed;
}

NativeOutcome NativeGuest::Run(absl::Span<const std::byte> elf, uint64_t vcpu) {
  const Mapping image = Load(elf);
  const Mapping stack =
      *Mapping::Map(ByteCount::Bytes(QUIRE_STACK_SIZE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  console = Console();
  console.boot = &boot_;
  {
    const SignalScope signals;
    quire_native_enter(&boot_, vcpu, ImageOf(elf).entry, stack.data() + QUIRE_STACK_SIZE);
  }
  NativeOutcome outcome;
  outcome.kind = console.kind;
  outcome.status = console.status;
  outcome.port = console.port;
  outcome.signal = console.signal;
  outcome.fault_address = console.fault_address;
  outcome.console.assign(console.text, console.size);
  outcome.advice.assign(console.advice.all, console.advice.all + console.advice.count);
  outcome.wire_requests.assign(console.wire_requests.all, console.wire_requests.all + console.wire_requests.count);
  return outcome;
}

}  // namespace quire
