#include "vmm/kvm/test_guest.h"

#include <stdint.h>

#include "workloads/guest_abi.h"

typedef void (*Function)(void);

static void OutByte(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static void OutWord(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static uint32_t InWord(uint16_t port) {
  uint32_t value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static __attribute__((noreturn)) void Exit(uint32_t status) {
  for (;;) OutWord(QUIRE_EXIT_PORT, status);
}

static void Print(const char* text) {
  while (*text) OutByte(QUIRE_SERIAL_PORT, (uint8_t)*text++);
}

static void PrintNumber(uint64_t number) {
  if (number >= 10) PrintNumber(number / 10);
  OutByte(QUIRE_SERIAL_PORT, (uint8_t)('0' + number % 10));
}

static void SayHello(struct quire_boot_info* boot, uint64_t vcpu) {
  Print("hello from vCPU ");
  PrintNumber(vcpu);
  Print(" of ");
  PrintNumber(boot->vcpus);
  Print("\n");
  Exit((uint32_t)vcpu);
}

static volatile uint64_t* Page(struct quire_boot_info* boot, uint64_t page) {
  return (volatile uint64_t*)(boot->memory + page * 4096);
}

static void SweepMemory(struct quire_boot_info* boot, uint64_t vcpu) {
  volatile struct quire_progress* progress = &boot->progress[vcpu];
  const uint64_t pages = boot->memory_bytes / 4096;
  progress->phase = 1;
  for (uint64_t page = vcpu; page < pages; page += boot->vcpus) {
    if (*Page(boot, page) != 0) ++progress->mismatched_pages;  // zeros at first
    *Page(boot, page) = ~page;
    ++progress->operations;
  }
  for (uint64_t page = vcpu; page < pages; page += boot->vcpus) {
    if (*Page(boot, page) != ~page) ++progress->mismatched_pages;
    ++progress->verified_pages;
  }
  progress->phase = 2;
  Exit((uint32_t)progress->mismatched_pages);
}

static void AddFloats(void) {
  volatile double a = 1.5, b = 2.5;
  Exit((uint32_t)(a + b));
}

static void WriteString(void) {
  const char* text = "string\n";
  uint64_t size = 7;
  __asm__ volatile("rep outsb" : "+S"(text), "+c"(size) : "d"((uint16_t)QUIRE_SERIAL_PORT) : "memory");
  Exit(0);
}

static void WaitForStop(struct quire_boot_info* boot, uint64_t vcpu) {
  volatile struct quire_progress* progress = &boot->progress[vcpu];
  while (!__atomic_load_n(&boot->stop, __ATOMIC_RELAXED)) ++progress->operations;
  Exit(5);
}

static void Spin(struct quire_boot_info* boot, uint64_t vcpu) {
  boot->progress[vcpu].phase = 1;
  for (;;) __asm__ volatile("" : : : "memory");
}

static void PrintForEver(struct quire_boot_info* boot, uint64_t vcpu) {
  boot->progress[vcpu].phase = 1;
  for (;;) Print(".");
}

static void WaitForEachOther(struct quire_boot_info* boot) {
  __atomic_add_fetch(&boot->arrived, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&boot->arrived, __ATOMIC_SEQ_CST) < boot->vcpus) __asm__ volatile("pause");
  Exit(0);
}

static uint64_t data = 0xc3;  // a return instruction, where nothing may be executed

static void Run(uint64_t address) { ((Function)address)(); }

void _start(struct quire_boot_info* boot, uint64_t vcpu) {
  volatile uint64_t null = 0;
  switch ((enum TestGuestAction)boot->seed) {
    case kSayHello:
      SayHello(boot, vcpu);
      break;
    case kSweepMemory:
      SweepMemory(boot, vcpu);
      break;
    case kAddFloats:
      AddFloats();
      break;
    case kReadPort:
      Exit(InWord(0x60));
      break;
    case kWritePort:
      OutWord(0x1234, 0x1234);
      Exit(0);
      break;
    case kWriteString:
      WriteString();
      break;
    case kWaitForStop:
      WaitForStop(boot, vcpu);
      break;
    case kSpin:
      Spin(boot, vcpu);
      break;
    case kPrintForEver:
      PrintForEver(boot, vcpu);
      break;
    case kWaitForEachOther:
      WaitForEachOther(boot);
      break;
    case kInvalidInstruction:
      __asm__ volatile("ud2" : : "a"(0x1234567));
      break;
    case kDivideByZero:
      __asm__ volatile("divl %0" : : "r"(0), "a"(1), "d"(0));
      break;
    case kHalt:
      __asm__ volatile("hlt");
      break;
    case kSoftwareInterrupt:
      __asm__ volatile("int $0x80");
      break;
    case kReadNull:
      Exit((uint32_t) * (volatile uint64_t*)null);
      break;
    case kReadBeyondMemory:
      Exit(*(volatile uint8_t*)(boot->memory + boot->memory_bytes));
      break;
    case kWriteCode:
      *(volatile uint8_t*)&_start = 0;
      break;
    case kRunData:
      Run((uint64_t)&data);
      break;
    case kOverflowStack:
      __asm__ volatile("1: push %rax; jmp 1b");
      break;
    case kReturn:
      return;
    case kReadAux:
      Exit(*(volatile uint32_t*)boot->aux);
      break;
    case kWriteAux:
      *(volatile uint32_t*)boot->aux = 1;
      Exit(0);
      break;
    case kRunAux:
      Run(boot->aux);
      break;
  }
  Exit(99);
}
