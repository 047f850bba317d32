// What a Linux guest runs to test the memory under it (tools/lab/guest/init), with content that it knows.
//
//   guest_work SEED hog MIB ROUNDS       a program that uses all of its memory
//   guest_work SEED forks N              N times fork and exec, while the parent's pages are copied on write
//   guest_work SEED free MIB             fills so much memory, checks it, gives it back
//   guest_work SEED scatter MIB          fills so much memory, gives back all but a page in 2 MiB (nothing that can be
//                                        reported free), waits for standard input, and uses all of it again
//   guest_work SEED loss MIB SECONDS     a child says where one of its pages is, and reads them all for so long, or
//                                        until it is killed
//   guest_work SEED pages FIRST COUNT    writes pages of content to standard output
//
// SEED is the key of the content. Except of `pages`, the last line of standard output is "CHECKED WRONG", in pages and
// children; what is wrong is said on standard error. The exit status is 1 where something could not be done.
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "workloads/content.h"
#include "workloads/linux/known_memory.h"
#include "workloads/linux/say.h"
#include "workloads/random.h"

namespace quire {
namespace {

typedef unsigned long long ull;  // what printf takes

constexpr uint64_t kPagesPerMib = (uint64_t{1} << 20) / KnownMemory::kPageBytes;
constexpr uint64_t kMostMib = uint64_t{1} << 20;
// Copied on write by the children: enough for huge pages, and soon written.
constexpr uint64_t kForkedPages = 4 * kPagesPerMib;
// Of them, pages that a child writes, and its parent meanwhile.
constexpr uint64_t kWrittenPages = 64;
constexpr uint64_t kForksPerProgress = 50;
// A page that stays, and those behind it that are given back: what Linux reports free is free in pieces of 2 MiB.
constexpr uint64_t kScatteredRun = 512;

[[noreturn]] void Refuse(const char* why) {
  Say("failure why=%s", why);
  _exit(1);
}

uint64_t Number(const char* text, uint64_t least, uint64_t most) {
  char* end = nullptr;
  const ull value = strtoull(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != '\0' || value < least || value > most) {
    Say("failure why=guest_work takes a number from %llu to %llu, not '%.40s'", static_cast<ull>(least),
        static_cast<ull>(most), text);
    _exit(1);
  }
  return value;
}

// The first quarter is written once and only read from then on. In each round, of the others: as many reads and writes
// as there are pages, at random; an eighth is offered to the kernel, and an eighth given back. In the end all is
// checked.
Tally Hog(uint64_t seed, uint64_t mib, uint64_t rounds) {
  KnownMemory memory(seed, mib * kPagesPerMib);
  Random random(seed);
  memory.WriteAll();
  const uint64_t kept = memory.pages() / 4;
  const uint64_t changing = memory.pages() - kept;
  const uint64_t run = changing / 8;
  for (uint64_t round = 1; round <= rounds; ++round) {
    for (uint64_t i = 0; i < memory.pages(); ++i) {
      memory.Check(random.Below(memory.pages()));
      const uint64_t page = kept + random.Below(changing);
      memory.Check(page);
      memory.Write(page);
    }
    memory.OfferAndRewrite(kept + random.Below(changing - run), run);
    memory.ReplaceAndRewrite(kept + random.Below(changing - run), run);
    Say("progress=%llu of=hog", static_cast<ull>(round));
  }
  memory.CheckAll();
  return memory.tally();
}

// A forked child finds what its parent wrote, writes some of it, and becomes another program: this one, with nothing to
// do.
[[noreturn]] void BeChild(KnownMemory& memory, uint64_t number) {
  Random random(number);
  const uint64_t wrong_before = memory.tally().wrong;
  for (uint64_t i = 0; i < kWrittenPages; ++i) {
    const uint64_t page = random.Below(memory.pages());
    memory.Check(page);
    memory.Write(page);
    memory.Check(page);
  }
  if (memory.tally().wrong != wrong_before) _exit(2);
  execl("/proc/self/exe", "guest_work", "0", "pages", "0", "0", nullptr);
  _exit(1);
}

// Returns whether the child found everything right.
bool ForkOnce(KnownMemory& memory, uint64_t number) {
  const pid_t child = fork();
  if (child < 0) Fail("a process could not be forked");
  if (child == 0) BeChild(memory, number);
  for (uint64_t i = 0; i < kWrittenPages; ++i) memory.Write((number * kWrittenPages + i) % memory.pages());
  int status = 0;
  if (waitpid(child, &status, 0) != child) Fail("a child is gone");
  if (status != 0) Say("wrong_child=%llu status=%d", static_cast<ull>(number), status);
  return status == 0;
}

Tally Forks(uint64_t seed, uint64_t count) {
  KnownMemory memory(seed, kForkedPages);
  memory.WriteAll();
  uint64_t wrong_children = 0;
  for (uint64_t number = 1; number <= count; ++number) {
    if (!ForkOnce(memory, number)) ++wrong_children;
    if (number % kForksPerProgress == 0) Say("progress=%llu of=forks", static_cast<ull>(number));
  }
  memory.CheckAll();
  return {memory.tally().checked + count, memory.tally().wrong + wrong_children};
}

Tally FillAndFree(uint64_t seed, uint64_t mib) {
  KnownMemory memory(seed, mib * kPagesPerMib);
  memory.WriteAll();
  memory.CheckAll();
  return memory.tally();
}

Tally Scatter(uint64_t seed, uint64_t mib) {
  KnownMemory memory(seed, mib * kPagesPerMib);
  memory.UseSmallPages();
  memory.WriteAll();
  for (uint64_t kept = 0; kept < memory.pages(); kept += kScatteredRun) {
    const uint64_t rest = memory.pages() - kept;
    memory.GiveBack(kept + 1, (rest < kScatteredRun ? rest : kScatteredRun) - 1);
  }
  Say("scattered=%llu", static_cast<ull>(mib));
  char line[16];
  if (read(STDIN_FILENO, line, sizeof line) < 0) Fail("standard input cannot be read");
  for (uint64_t page = 0; page < memory.pages(); ++page) {
    if (page % kScatteredRun == 0) {
      memory.Check(page);
    } else {
      memory.CheckZeros(page);
    }
  }
  memory.WriteAll();
  memory.CheckAll();
  return memory.tally();
}

// The page's guest physical number. Only root is told.
uint64_t FrameOf(const void* address) {
  const int fd = open("/proc/self/pagemap", O_RDONLY);
  uint64_t entry = 0;
  const off_t place = static_cast<off_t>(reinterpret_cast<uintptr_t>(address) / KnownMemory::kPageBytes * sizeof entry);
  if (fd < 0 || pread(fd, &entry, sizeof entry, place) != sizeof entry) Fail("/proc/self/pagemap cannot be read");
  close(fd);
  return entry & ((uint64_t{1} << 55) - 1);
}

[[noreturn]] void AwaitLoss(uint64_t seed, uint64_t mib, uint64_t seconds) {
  KnownMemory memory(seed, mib * kPagesPerMib);
  memory.WriteAll();
  Say("page_to_lose=%llu", static_cast<ull>(FrameOf(memory.WordsOf(memory.pages() / 2))));
  const time_t end = time(nullptr) + static_cast<time_t>(seconds);
  while (memory.tally().wrong == 0 && time(nullptr) < end) memory.CheckAll();
  _exit(memory.tally().wrong == 0 ? 0 : 2);
}

// The child is one thing that was checked: it found its memory right, or was killed by SIGBUS.
Tally Loss(uint64_t seed, uint64_t mib, uint64_t seconds) {
  KnownMemory memory(seed + 1, kPagesPerMib);
  memory.WriteAll();
  const pid_t child = fork();
  if (child < 0) Fail("a process could not be forked");
  if (child == 0) AwaitLoss(seed, mib, seconds);
  int status = 0;
  if (waitpid(child, &status, 0) != child) Fail("a child is gone");
  const int killed_by = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  Say("killed_by=%d", killed_by);
  memory.CheckAll();
  const bool right = status == 0 || killed_by == SIGBUS;
  return {memory.tally().checked + 1, memory.tally().wrong + (right ? 0 : 1)};
}

void WritePages(uint64_t seed, uint64_t first, uint64_t count) {
  Content content;
  content.key = seed;
  alignas(16) uint64_t words[kWordsPerPage];
  for (uint64_t page = first; page < first + count; ++page) {
    GeneratePage(words, content, page, 1);
    if (fwrite(words, sizeof words, 1, stdout) != 1) Fail("pages could not be written");
  }
  if (fflush(stdout) != 0) Fail("pages could not be written");
}

void Run(int argc, char** argv) {
  const auto is = [&](const char* command, int words) { return argc == words && strcmp(argv[2], command) == 0; };
  if (argc < 3) Refuse("guest_work needs a seed and a command");
  const uint64_t seed = Number(argv[1], 0, UINT64_MAX);
  Tally tally;
  if (is("hog", 5)) {
    tally = Hog(seed, Number(argv[3], 1, kMostMib), Number(argv[4], 0, UINT32_MAX));
  } else if (is("forks", 4)) {
    tally = Forks(seed, Number(argv[3], 0, UINT32_MAX));
  } else if (is("free", 4)) {
    tally = FillAndFree(seed, Number(argv[3], 1, kMostMib));
  } else if (is("scatter", 4)) {
    tally = Scatter(seed, Number(argv[3], 1, kMostMib));
  } else if (is("loss", 5)) {
    tally = Loss(seed, Number(argv[3], 1, kMostMib), Number(argv[4], 1, UINT16_MAX));
  } else if (is("pages", 5)) {
    return WritePages(seed, Number(argv[3], 0, UINT32_MAX), Number(argv[4], 0, UINT32_MAX));
  } else {
    Refuse("guest_work has no such command, or not with so many numbers");
  }
  printf("%llu %llu\n", static_cast<ull>(tally.checked), static_cast<ull>(tally.wrong));
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) {
  quire::Run(argc, argv);
  return 0;
}
