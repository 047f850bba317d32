/* A kernel of its own for a PC guest (docs/linux_guests.md), as bare-metal test kernels are: 32-bit, with a Multiboot
 * header, a serial port to say things and a port to end with a status. It prints its command line, writes and checks
 * all of its memory from 4 MiB on, and ends as the command line's last word says: exit=N, off or reset; or not: stay.
 */
#include <stdint.h>

enum { kSerialPort = 0x3f8, kSerialStatus = kSerialPort + 5, kSerialReady = 1 << 5 };
enum { kExitPort = 0xf4, kPowerPort = 0x604, kPowerOff = 5 << 10 | 1 << 13, kResetPort = 0xcf9, kReset = 6 };
enum { kLoaderMagic = 0x2badb002, kHasMemory = 1 << 0, kHasCommandLine = 1 << 2 };
enum { kSweepBegin = 4 << 20, kPage = 4096 };

/* Multiboot specification 0.6.96, 3.3. */
struct Info {
  uint32_t flags;
  uint32_t lower_kib;
  uint32_t upper_kib; /* from 1 MiB on */
  uint32_t boot_device;
  uint32_t command_line;
};

__asm__(
    ".section .text.unlikely, \"ax\"\n" /* which comes first */
    ".balign 4\n"
    ".long 0x1badb002, 3, -(0x1badb002 + 3)\n" /* wants to know its memory */
    ".global _start\n"
    "_start:\n"
    "  mov $stack_end, %esp\n"
    "  push %ebx\n"
    "  push %eax\n"
    "  call Main\n"
    ".section .bss\n"
    ".balign 16\n"
    ".skip 4096\n"
    "stack_end:\n"
    ".text\n");

static void OutByte(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static void OutWord(uint16_t port, uint16_t value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static void OutLong(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static uint8_t InByte(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static void Print(const char* text) {
  for (; *text; ++text) {
    while ((InByte(kSerialStatus) & kSerialReady) == 0) {
    }
    OutByte(kSerialPort, (uint8_t)*text);
  }
}

static void PrintNumber(uint32_t number) {
  char digits[11] = {0};
  int at = 10;
  do {
    digits[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number != 0);
  Print(digits + at);
}

static volatile uint32_t* Word(uint32_t address) { return (volatile uint32_t*)address; }

/* Returns the number of pages that do not hold what was written. */
static uint32_t SweepMemory(uint32_t end) {
  uint32_t wrong = 0;
  for (uint32_t page = kSweepBegin; page < end; page += kPage) {
    wrong += *Word(page) != 0;
    *Word(page) = ~page;
  }
  for (uint32_t page = kSweepBegin; page < end; page += kPage) wrong += *Word(page) != ~page;
  return wrong;
}

static const char* LastWord(const char* line) {
  const char* word = line;
  for (; *line; ++line) {
    if (*line == ' ') word = line + 1;
  }
  return word;
}

static int Is(const char* word, const char* wanted) {
  while (*word && *word == *wanted) ++word, ++wanted;
  return *word == *wanted;
}

static uint32_t NumberAfter(const char* word) {
  uint32_t number = 0;
  while (*word && *word != '=') ++word;
  while (*word && *++word) number = number * 10 + (uint32_t)(*word - '0');
  return number;
}

__attribute__((noreturn, used)) void Main(uint32_t magic, const struct Info* info) {
  if (magic != kLoaderMagic || (info->flags & kHasMemory) == 0 || (info->flags & kHasCommandLine) == 0) {
    Print("not loaded as Multiboot says\n");
    OutLong(kExitPort, 99);
  }
  const char* line = (const char*)info->command_line;
  Print("quire: magic=ok memory_kib=");
  PrintNumber(info->upper_kib + 1024);
  Print("\nquire: wrong=");
  PrintNumber(SweepMemory((info->upper_kib + 1024) * 1024));
  Print("\ncommand line: ");
  Print(line);
  Print("\n");
  const char* how = LastWord(line);
  if (Is(how, "off")) OutWord(kPowerPort, kPowerOff);
  if (Is(how, "reset")) OutByte(kResetPort, kReset);
  while (Is(how, "stay")) __asm__ volatile("pause");
  OutLong(kExitPort, NumberAfter(how));
  for (;;) __asm__ volatile("cli; hlt");
}
