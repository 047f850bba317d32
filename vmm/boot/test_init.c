/*
 * /init of the test initramfs: says on the console what kind of machine it finds itself in, does what the kernel's
 * command line asks for, and powers off. Without a C library: system calls, and nothing else.
 *
 * What it says, one "quire-init: KEY VALUE" a line, in this order:
 *
 *   module /modules/10-virtio.ko ok     or "error 2": for each file in /modules, loaded in the order of their names
 *   release 6.1.0-53-cloud-amd64        of the kernel
 *   cpus 2                              online
 *   memtotal 1014632 KiB                as /proc/meminfo has it
 *   memfree 988200 KiB
 *   cmdline console=ttyS0 ...
 *   hwrng yes                           whether /dev/hwrng is there, or no
 *   hwrng-source virtio_rng.0           where it has its numbers from, or none
 *   virtio 2                            devices in /sys/bus/virtio/devices, and then for each
 *   virtio-device virtio0 0x0004        its name and kind
 *   ready                               from here on it does what it was asked
 *
 * What it does, by a word on the command line:
 *
 *   quire.test=memory[:MiB]   fills that much memory (default: half of what is free) with a pattern and checks it:
 *                             "memory ok 256 MiB", or "memory wrong 17 words", or "memory refused ..."
 *   quire.test=work[:MiB]     fills that much memory (the same default), and from then on checks pages of it at random,
 *                             an eighth of which it changes, until the machine is switched off. It says so as monitors
 *                             collect it (vmm/console_report.h): "quire: filled_mib=256", and once a second
 *                             "quire: operations=12345 wrong=0". A quarter of each page is random, the rest zero; pages
 *                             that have not been changed are the same in all guests
 *   quire.test=reboot         resets the machine
 *   quire.test=hang           waits for ever
 *   quire.test=panic          ends, which is more than a kernel can bear
 *
 * "unknown-test WORD" is what it says of any other. At its end it says "poweroff" (or "reboot"), and if the kernel
 * refuses, "cannot poweroff". A machine that goes on after a kernel's "reboot: Power down" makes the kernel panic.
 */
#include <asm/unistd.h>
#include <linux/reboot.h>
#include <stddef.h>
#include <stdint.h>

enum { kReadOnly = 0, kReadWriteMapping = 3, kPrivateAnonymous = 0x22, kFolder = 0200000, kPageBytes = 4096 };

/* What gcc makes of loops that copy or fill. */
void* memset(void* to, int value, size_t size) {
  void* const begin = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
  return begin;
}

void* memcpy(void* to, const void* from, size_t size) {
  void* const begin = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
  return begin;
}

/* ---- System calls. ---- */

static long Call6(long number, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

static long Call(long number, long a, long b, long c) { return Call6(number, a, b, c, 0, 0, 0); }

static void Mount(const char* type, const char* place) {
  Call6(__NR_mount, (long)type, (long)place, (long)type, 0, 0, 0);
}

/* ---- Text. ---- */

static size_t Length(const char* text) {
  size_t length = 0;
  while (text[length]) ++length;
  return length;
}

static int StartsWith(const char* text, const char* beginning) {
  while (*beginning) {
    if (*text++ != *beginning++) return 0;
  }
  return 1;
}

/* A line is put together and written at once, so that the kernel's own messages do not get into it. */
static char line[8192];
static size_t line_size;

static void Add(const char* text) {
  for (; *text && line_size < sizeof line - 1; ++text) line[line_size++] = *text;
}

static void AddNumber(uint64_t number) {
  char digits[21];
  size_t at = sizeof digits - 1;
  digits[at] = 0;
  do digits[--at] = (char)('0' + number % 10);
  while (number /= 10);
  Add(digits + at);
}

static void Begin(const char* key) {
  line_size = 0;
  Add("quire-init: ");
  Add(key);
  Add(" ");
}

static void WriteAll(const char* text, size_t size) {
  while (size > 0) {
    const long written = Call(__NR_write, 1, (long)text, (long)size);
    if (written <= 0) return;
    text += written;
    size -= (size_t)written;
  }
}

static void End(void) {
  while (line_size > 0 && (line[line_size - 1] == ' ' || line[line_size - 1] == '\n')) --line_size;
  line[line_size++] = '\n';
  WriteAll(line, line_size);
}

static void Say(const char* key, const char* value) {
  Begin(key);
  Add(value);
  End();
}

static void SayNumber(const char* key, uint64_t number, const char* unit) {
  Begin(key);
  AddNumber(number);
  Add(unit);
  End();
}

/* ---- Files. ---- */

/* The first bytes of a file as text; empty when it is not to be had. */
static const char* ReadFile(const char* path, char* text, size_t room) {
  size_t size = 0;
  const long fd = Call(__NR_open, (long)path, kReadOnly, 0);
  text[0] = 0;
  if (fd < 0) return text;
  while (size < room - 1) {
    const long got = Call(__NR_read, fd, (long)(text + size), (long)(room - 1 - size));
    if (got <= 0) break;
    size += (size_t)got;
  }
  Call(__NR_close, fd, 0, 0);
  text[size] = 0;
  return text;
}

/* The number after `key` at the beginning of one of a text's lines; 0 if there is none. */
static uint64_t NumberAfter(const char* text, const char* key) {
  while (*text && !StartsWith(text, key)) {
    while (*text && *text++ != '\n') continue;
  }
  if (!*text) return 0;
  text += Length(key);
  while (*text == ' ') ++text;
  uint64_t number = 0;
  for (; *text >= '0' && *text <= '9'; ++text) number = number * 10 + (uint64_t)(*text - '0');
  return number;
}

static uint64_t MemInfoKib(const char* key) {
  static char text[4096];
  return NumberAfter(ReadFile("/proc/meminfo", text, sizeof text), key);
}

/* ---- What there is. ---- */

struct utsname_fields {
  char system[65], node[65], release[65], version[65], machine[65], domain[65];
};

static void SayRelease(void) {
  static struct utsname_fields names;
  Call(__NR_uname, (long)&names, 0, 0);
  Say("release", names.release);
}

/* The processors that may run this program: all that are online. */
static void SayCpus(void) {
  static uint64_t mask[128];
  const long size = Call(__NR_sched_getaffinity, 0, sizeof mask, (long)mask);
  uint64_t count = 0;
  for (long i = 0; i < size / 8; ++i) {
    for (uint64_t bits = mask[i]; bits; bits &= bits - 1) ++count;
  }
  SayNumber("cpus", count, "");
}

struct folder_entry {
  uint64_t inode, offset;
  uint16_t size;
  uint8_t type;
  char name[];
};

typedef void (*NameFunction)(const char* name);

/* Calls `function` (which may be NULL) for every name in a folder; their number. */
static uint64_t ForEachName(const char* path, NameFunction function) {
  static uint64_t buffer[512];
  const long fd = Call(__NR_open, (long)path, kReadOnly | kFolder, 0);
  uint64_t count = 0;
  if (fd < 0) return 0;
  for (;;) {
    const long size = Call(__NR_getdents64, fd, (long)buffer, sizeof buffer);
    if (size <= 0) break;
    for (long at = 0; at < size;) {
      const struct folder_entry* const entry = (const struct folder_entry*)((const char*)buffer + at);
      at += entry->size;
      if (entry->name[0] == '.') continue;
      ++count;
      if (function) function(entry->name);
    }
  }
  Call(__NR_close, fd, 0, 0);
  return count;
}

static const char kVirtioFolder[] = "/sys/bus/virtio/devices";

static void SayVirtioDevice(const char* name) {
  static char path[512], kind[32];
  line_size = 0;
  Add(kVirtioFolder);
  Add("/");
  Add(name);
  Add("/device");
  line[line_size] = 0;
  if (line_size >= sizeof path) return;
  memcpy(path, line, line_size + 1);
  Begin("virtio-device");
  Add(name);
  Add(" ");
  Add(ReadFile(path, kind, sizeof kind));
  End();
}

static void SayDevices(void) {
  Say("hwrng", Call(__NR_access, (long)"/dev/hwrng", 0, 0) == 0 ? "yes" : "no");
  static char source[64];
  Say("hwrng-source", ReadFile("/sys/class/misc/hw_random/rng_current", source, sizeof source));
  SayNumber("virtio", ForEachName(kVirtioFolder, NULL), "");
  ForEachName(kVirtioFolder, SayVirtioDevice);
}

/* ---- Kernel modules. ---- */

static int Compare(const char* a, const char* b) {
  while (*a && *a == *b) ++a, ++b;
  return (unsigned char)*a - (unsigned char)*b;
}

/* The first name after the last one, in alphabetic order. */
static char last_name[256], next_name[256];

static void ConsiderName(const char* name) {
  if (Compare(name, last_name) <= 0 || (*next_name && Compare(name, next_name) >= 0)) return;
  if (Length(name) < sizeof next_name) memcpy(next_name, name, Length(name) + 1);
}

static void LoadModule(const char* path) {
  const long fd = Call(__NR_open, (long)path, kReadOnly, 0);
  const long result = fd < 0 ? fd : Call(__NR_finit_module, fd, (long)"", 0);
  if (fd >= 0) Call(__NR_close, fd, 0, 0);
  Begin("module");
  Add(path);
  Add(result == 0 ? " ok" : " error ");
  if (result != 0) AddNumber((uint64_t)-result);
  End();
}

static void LoadModules(void) {
  static const char kModules[] = "/modules/";
  static char path[sizeof kModules + sizeof next_name];
  for (;;) {
    next_name[0] = 0;
    ForEachName(kModules, ConsiderName);
    if (!*next_name) return;
    memcpy(last_name, next_name, sizeof last_name);
    memcpy(path, kModules, sizeof kModules);
    memcpy(path + Length(path), next_name, Length(next_name) + 1);
    LoadModule(path);
  }
}

/* ---- What it is asked to do. ---- */

/* The finalizer of SplitMix64: no two words of the memory are equal, and none compresses. */
static uint64_t Pattern(uint64_t index) {
  uint64_t word = (index + 1) * 0x9e3779b97f4a7c15;
  word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
  word = (word ^ word >> 27) * 0x94d049bb133111eb;
  return word ^ word >> 31;
}

static uint64_t CountWrongWords(volatile uint64_t* memory, uint64_t words) {
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < words; ++i) memory[i] = Pattern(i);
  for (uint64_t i = 0; i < words; ++i) wrong += memory[i] != Pattern(i);
  return wrong;
}

/*
 * Memory of as many MiB as ":MiB" says, or half of what is free; NULL, which is said, if that is not to be had. More
 * than is available would be the end of this program, and of the kernel with it.
 */
static volatile uint64_t* TakeMemory(const char* argument, uint64_t* mib) {
  const uint64_t available_kib = MemInfoKib("MemAvailable:");
  *mib = available_kib / 2 / 1024;
  if (*argument == ':') *mib = NumberAfter(argument, ":");
  if (*mib == 0 || *mib > available_kib / 1024) {
    Begin("memory refused");
    AddNumber(*mib);
    Add(" MiB of ");
    AddNumber(available_kib / 1024);
    Add(" MiB available");
    End();
    return NULL;
  }
  const long memory = Call6(__NR_mmap, 0, (long)(*mib << 20), kReadWriteMapping, kPrivateAnonymous, -1, 0);
  if (memory >= 0 || memory <= -kPageBytes) return (volatile uint64_t*)memory;
  SayNumber("memory refused: error", (uint64_t)-memory, "");
  return NULL;
}

static void TestMemory(const char* argument) {
  uint64_t mib = 0;
  volatile uint64_t* const memory = TakeMemory(argument, &mib);
  if (!memory) return;
  const uint64_t wrong = CountWrongWords(memory, (mib << 20) / sizeof(uint64_t));
  if (wrong) return SayNumber("memory wrong", wrong, " words");
  SayNumber("memory ok", mib, " MiB");
}

/* ---- Work that does not end. ---- */

enum { kPageWords = kPageBytes / sizeof(uint64_t), kRandomWords = kPageWords / 4, kPagesPerMib = 256 };

/* What is in a page that has been changed so many times; how, differs from guest to guest. */
static uint64_t salt;
static uint64_t WordOf(uint64_t page, uint64_t changes, uint64_t word) {
  return Pattern(page * kPageWords + word) ^ (changes ? Pattern(changes ^ salt) : 0);
}

/* The last word of a page is the number of its changes. */
static void WritePage(volatile uint64_t* pages, uint64_t page, uint64_t changes) {
  volatile uint64_t* const words = pages + page * kPageWords;
  for (uint64_t i = 0; i < kRandomWords; ++i) words[i] = WordOf(page, changes, i);
  words[kPageWords - 1] = changes;
}

static int PageIsRight(volatile uint64_t* pages, uint64_t page) {
  volatile uint64_t* const words = pages + page * kPageWords;
  const uint64_t changes = words[kPageWords - 1];
  int right = words[kPageWords - 2] == 0;
  for (uint64_t i = 0; i < kRandomWords; ++i) right &= words[i] == WordOf(page, changes, i);
  return right;
}

static uint64_t Seconds(void) {
  long now[2] = {0, 0};
  Call(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)now, 0);
  return (uint64_t)now[0];
}

/* A line in the form of vmm/console_report.h; `other` may be NULL. */
static void Tell(const char* key, uint64_t number, const char* other, uint64_t other_number) {
  line_size = 0;
  Add("quire: ");
  Add(key);
  AddNumber(number);
  if (other) Add(other), AddNumber(other_number);
  End();
}

/* So often it is looked whether a second has passed. */
enum { kOperationsBetweenLooks = 64 };

static void Work(const char* argument) {
  uint64_t mib = 0, operations = 0, wrong = 0, said = 0;
  volatile uint64_t* const memory = TakeMemory(argument, &mib);
  if (!memory) return;
  const uint64_t pages = mib * kPagesPerMib;
  for (uint64_t page = 0; page < pages; ++page) WritePage(memory, page, 0);
  Tell("filled_mib=", mib, NULL, 0);
  uint64_t random = salt = Pattern(__builtin_ia32_rdtsc());
  for (;;) {
    for (int i = 0; i < kOperationsBetweenLooks; ++i) {
      random = Pattern(random + i);
      /* The product of two: of low numbers there are more. */
      const uint64_t page = (random & 0xffffffff) % pages * ((random >> 32) % pages) / pages;
      wrong += !PageIsRight(memory, page);
      if (++operations % 8 == 0) WritePage(memory, page, memory[(page + 1) * kPageWords - 1] + 1);
    }
    const uint64_t now = Seconds();
    if (now == said) continue;
    said = now;
    Tell("operations=", operations, " wrong=", wrong);
  }
}

static void Hang(void) {
  for (;;) Call(__NR_pause, 0, 0, 0);
}

/*
 * Returns only if the kernel refuses. A machine that goes on although the kernel has switched it off makes the kernel
 * panic, since that ends the process that asked for it.
 */
static void Reboot(unsigned command, const char* what) {
  Say(what, "");
  Call(__NR_sync, 0, 0, 0);
  Call6(__NR_reboot, (long)LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, (long)command, 0, 0, 0);
  Say("cannot", what);
}

static int Is(const char* word, const char* expected) {
  return StartsWith(word, expected) &&
         (word[Length(expected)] == 0 || word[Length(expected)] == ' ' || word[Length(expected)] == '\n');
}

static void Test(const char* word) {
  if (StartsWith(word, "memory:") || Is(word, "memory")) return TestMemory(word + Length("memory"));
  if (StartsWith(word, "work:") || Is(word, "work")) return Work(word + Length("work"));
  if (Is(word, "hang")) return Hang();
  if (Is(word, "panic")) Call(__NR_exit_group, 1, 0, 0);
  if (Is(word, "reboot")) return Reboot(LINUX_REBOOT_CMD_RESTART, "reboot");
  Begin("unknown-test");
  while (*word && *word != ' ' && *word != '\n') Add((char[]){*word++, 0});
  End();
}

/* Every word that asks for something, in order. */
static void RunTests(const char* command_line) {
  static const char kKey[] = "quire.test=";
  for (const char* at = command_line; *at; ++at) {
    if ((at == command_line || at[-1] == ' ') && StartsWith(at, kKey)) Test(at + Length(kKey));
  }
}

__attribute__((used)) static void Init(void) {
  static char command_line[4096];
  Mount("proc", "/proc");
  Mount("sysfs", "/sys");
  Mount("devtmpfs", "/dev");
  ReadFile("/proc/cmdline", command_line, sizeof command_line);
  LoadModules();
  SayRelease();
  SayCpus();
  SayNumber("memtotal", MemInfoKib("MemTotal:"), " KiB");
  SayNumber("memfree", MemInfoKib("MemFree:"), " KiB");
  Say("cmdline", command_line);
  SayDevices();
  Say("ready", "");
  RunTests(command_line);
  Reboot(LINUX_REBOOT_CMD_POWER_OFF, "poweroff");
  Hang();
}

/* The stack is aligned to 16 bytes here, and before a function's call. */
__asm__(
    ".globl _start\n"
    "_start:\n"
    "  xor %ebp, %ebp\n"
    "  call Init\n"
    "  hlt\n");
