// Islands without KVM: threads of this process touch two windows as vCPUs would. Needs userfaultfd.
//
// A touch of a mapping that is being replaced is an error. KVM reports it to the vCPU's thread, which asks the window
// whether to try again (AwaitRemapping). Here the kernel copies from the window on behalf of Read, with the same end,
// and a thread that touches the window by itself gets a signal, whose handler tries again.

#include "mmu/islands.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/frames/pool_file.h"
#include "mmu/kvm_window.h"
#include "mmu/sharing_memory.h"
#include "mmu/touched_windows.h"
#include "mmu/userfaultfd.h"

namespace quire {
namespace {

constexpr PageCount kSize = PageCount::OfBlocks(2);
constexpr FrameRange kArena(FrameNumber(0), PageCount::OfBlocks(1));
constexpr int kGuests = 2;

class IslandsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Create();
    if (!uffd.ok()) GTEST_SKIP() << uffd.status().message();
    if (!uffd->can_write_protect()) GTEST_SKIP() << "this kernel does not report writes to protected pages of a file";
    const PageCount size = kArena.size() + kSize * kGuests;
    file_.emplace(PoolFile::Create({.size = size, .arena = kArena.size(), .limit = size}).value());
    // As the manager's arena is: what is shared is a piece of a 2 MiB page.
    ASSERT_EQ(file_->PopulateBlock(kArena), absl::OkStatus());
    for (int i = 0; i < kGuests; ++i) {
      const FrameRange home(kArena.end() + kSize * static_cast<uint64_t>(i), kSize);
      guests_[i].memory = std::make_unique<SharingMemory>(*file_, home);
      guests_[i].memory->on_left = [this](FrameNumber frame) { on_left(frame); };
      guests_[i].window = KvmWindow::Create(*guests_[i].memory, file_->fd(), home).value();
      ASSERT_TRUE(guests_[i].window->can_share());
      touched_.Add(*guests_[i].window);
    }
  }
  void TearDown() override {
    if (!file_) return;
    for (int i = 0; i < kGuests; ++i) EXPECT_EQ(AnonymousKiB(i), 0u) << "the kernel copied a page for itself";
  }

  KvmWindow& window(int guest = 0) { return *guests_[guest].window; }
  SharingMemory& memory(int guest = 0) { return *guests_[guest].memory; }
  uintptr_t Base(int guest) { return window(guest).base().value(); }
  volatile uint64_t& Word(uint64_t page, uint64_t word = 0, int guest = 0) {
    return reinterpret_cast<volatile uint64_t*>(window(guest).base().pointer())[page * (kPageSize / 8) + word];
  }
  static GfnRange Pages(uint64_t begin, uint64_t count) { return GfnRange(Gfn(begin), PageCount(count)); }
  void Scribble(FrameNumber frame) { std::memset(file_->SmallAlias(frame), 0xdb, kPageSize); }

  // Has the kernel copy a word out of the window, which another thread may be writing to. The error is that of the
  // system call, with no second attempt.
  absl::StatusOr<uint64_t> Read(uint64_t page, int guest = 0) {
    uint64_t value = 0;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
    const UniqueFd out(ends[0]), in(ends[1]);
    if (syscall(SYS_write, in.get(), &Word(page, 0, guest), sizeof value) != sizeof value) {
      return absl::ErrnoToStatus(errno, "read the window");
    }
    if (read(out.get(), &value, sizeof value) != sizeof value) return absl::ErrnoToStatus(errno, "read the pipe");
    return value;
  }

  int Mappings(int guest = 0) { return MappingsOf(window(guest)); }
  uint64_t AnonymousKiB(int guest = 0) { return AnonymousKiBOf(window(guest)); }

  struct Guest {
    std::unique_ptr<SharingMemory> memory;
    std::unique_ptr<KvmWindow> window;
  };

  TouchedWindows touched_;
  std::optional<PoolFile> file_;
  std::function<void(FrameNumber)> on_left = [](FrameNumber) {};
  Guest guests_[kGuests];
};

TEST_F(IslandsTest, TwoGuestsReadOneFrameAndAWriteEndsThatForItsGuestOnly) {
  for (int guest : {0, 1}) {
    Word(3, 7, guest) = 1000;
    memory(guest).Share(Pages(3, 1), FrameNumber(5));
    EXPECT_EQ(Word(3, 7, guest), 1000u);
    EXPECT_EQ(Word(3, 6, guest), 0u);
  }
  Word(3, 6) = 1;
  EXPECT_FALSE(memory(0).IsShared(Gfn(3)));
  EXPECT_EQ(Word(3, 6), 1u);
  EXPECT_EQ(Word(3, 7), 1000u);
  EXPECT_TRUE(memory(1).IsShared(Gfn(3)));
  EXPECT_EQ(Word(3, 6, 1), 0u);
  EXPECT_EQ(Word(3, 7, 1), 1000u);
  // What the window shows is what the manager sees.
  EXPECT_EQ(reinterpret_cast<uint64_t*>(file_->SmallAlias(memory().HomeOf(Gfn(3))))[6], 1u);
  EXPECT_EQ(window().counters().islands_made.value(), 1u);
  EXPECT_EQ(window().counters().islands_unmade.value(), 1u);
  EXPECT_EQ(window(1).counters().islands_unmade.value(), 0u);
}

TEST_F(IslandsTest, NobodySeesAFrameThatWasLeft) {
  on_left = [this](FrameNumber frame) { Scribble(frame); };
  for (uint64_t page : {0, 1, 511, 512, 1023}) {
    Word(page) = page + 1;
    memory().Share(Pages(page, 1), FrameNumber(9));
    EXPECT_EQ(Word(page), page + 1);
    Word(page, 1) = 5;
    EXPECT_EQ(Word(page), page + 1);
    EXPECT_EQ(Word(page, 1), 5u);
    memory().Share(Pages(page, 1), FrameNumber(9));
    EXPECT_EQ(Word(page), page + 1);
    memory().Unshare(Pages(page, 1));
    EXPECT_EQ(Word(page), page + 1);
  }
}

TEST_F(IslandsTest, ARunIsOneMappingAndWhenAllIsWrittenTheWindowIsOneAgain) {
  ASSERT_EQ(Mappings(), 1);
  memory().set_around(PageCount(16));
  for (uint64_t i = 0; i < 16; ++i) Word(32 + i) = i + 1;
  memory().Share(Pages(32, 16), FrameNumber(100));
  EXPECT_EQ(Mappings(), 1);
  const uint64_t faults = window().counters().faults.value();
  for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(Word(32 + i), i + 1);
  EXPECT_EQ(window().counters().faults.value(), faults + 1);
  EXPECT_EQ(window().counters().islands_made.value(), 16u);
  EXPECT_EQ(Mappings(), 3);
  Word(40) = 0;  // in the middle
  EXPECT_EQ(Mappings(), 5);
  for (uint64_t i = 0; i < 16; ++i) Word(32 + i, 1) = i;
  EXPECT_EQ(Mappings(), 1);
  EXPECT_EQ(window().counters().islands_unmade.value(), 16u);
  for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(Word(32 + i), i == 8 ? 0 : i + 1);
}

TEST_F(IslandsTest, AWholeBlockCanBeOneIsland) {
  memory().set_around(kOneBlock);
  for (uint64_t i = 0; i < 512; ++i) Word(i) = i + 1;
  memory().Share(Pages(0, 512), kArena.begin());
  for (uint64_t i = 0; i < 512; ++i) ASSERT_EQ(Word(i), i + 1);
  EXPECT_EQ(window().counters().islands_made.value(), 512u);
  EXPECT_EQ(Mappings(), 2);
  memory().set_around(kOnePage);
  Word(100, 1) = 1;
  EXPECT_EQ(Mappings(), 4);
  for (uint64_t i = 0; i < 512; ++i) ASSERT_EQ(Word(i), i + 1);
  memory().Unshare(Pages(0, 512));
  EXPECT_EQ(Mappings(), 1);
  for (uint64_t i = 0; i < 512; ++i) ASSERT_EQ(Word(i), i + 1);
}

TEST_F(IslandsTest, NeighboursWithFramesThatDoNotFollowAreIslandsOfTheirOwn) {
  memory().set_around(PageCount(16));
  for (uint64_t i = 0; i < 4; ++i) Word(i) = i + 1;
  for (uint64_t i = 0; i < 4; ++i) memory().Share(Pages(i, 1), FrameNumber(20 - i));
  for (uint64_t i = 0; i < 4; ++i) EXPECT_EQ(Word(i), i + 1);
  EXPECT_EQ(window().counters().islands_made.value(), 4u);
  EXPECT_EQ(Mappings(), 5);
  memory().Unshare(Pages(0, 4));
  EXPECT_EQ(Mappings(), 1);
  for (uint64_t i = 0; i < 4; ++i) EXPECT_EQ(Word(i), i + 1);
}

TEST_F(IslandsTest, AnInvalidatedRangeThatHoldsIslandsIsAllHomeAndCanBeMappedWhole) {
  for (uint64_t i = 0; i < 512; ++i) Word(i) = i + 1;
  for (uint64_t i : {3, 4, 100, 400}) {
    memory().Share(Pages(i, 1), FrameNumber(i));
    EXPECT_EQ(Word(i), i + 1);
  }
  Word(700) = 7;
  memory().Share(Pages(700, 1), FrameNumber(12));
  EXPECT_EQ(Word(700), 7u);
  EXPECT_GT(Mappings(), 1);
  // Still shared, and nobody looks.
  memory().Invalidate(Pages(0, 1024));
  EXPECT_EQ(Mappings(), 1);
  for (uint64_t i : {3, 100, 5}) EXPECT_EQ(Word(i), i + 1);
  memory().Unshare(Pages(0, 512));
  memory().set_around(PageCount(512));
  memory().Invalidate(Pages(0, 512));
  EXPECT_EQ(Word(17), 18u);
  EXPECT_EQ(window().counters().blocks.value(), 1u);
  EXPECT_EQ(window().counters().blocks_refused.value(), 0u);
  const uint64_t faults = window().counters().faults.value();
  for (uint64_t i = 0; i < 512; ++i) EXPECT_EQ(Word(i), i + 1);
  EXPECT_EQ(window().counters().faults.value(), faults);
  EXPECT_EQ(Word(700), 7u);
}

// As when the host swaps it, or splits the 2 MiB page that the frame is part of.
TEST_F(IslandsTest, AnIslandWhosePageTheHostKernelHasUnmappedIsStillOne) {
  for (bool write : {false, true}) {
    Word(3) = 1000;
    memory().Share(Pages(3, 1), FrameNumber(5));
    EXPECT_EQ(Word(3), 1000u);
    ASSERT_EQ(madvise(const_cast<uint64_t*>(&Word(3)), kPageSize, MADV_DONTNEED), 0);
    if (!write) {
      EXPECT_EQ(Word(3), 1000u);
      EXPECT_EQ(Mappings(), 3);
    }
    Word(3, 1) = 1;
    EXPECT_FALSE(memory().IsShared(Gfn(3)));
    EXPECT_EQ(Word(3), 1000u);
    EXPECT_EQ(reinterpret_cast<uint64_t*>(file_->SmallAlias(FrameNumber(5)))[1], 0u);
    Word(3, 1) = 0;
    EXPECT_EQ(Mappings(), 1);
  }
}

TEST_F(IslandsTest, AStoppedGuestSeesNeitherIslandsNorItsOwn) {
  Word(3) = 3;
  Word(4) = 4;
  memory().Share(Pages(3, 1), FrameNumber(5));
  EXPECT_EQ(Read(3).value(), 3u);
  const KvmWindow::RemapSequence before = window().remappings();
  memory().Stop();
  for (uint64_t page : {3, 4, 500}) EXPECT_EQ(Read(page).status().code(), absl::StatusCode::kInvalidArgument) << page;
  // Put back, and still out of reach.
  memory().Unshare(Pages(0, 512));
  for (uint64_t page : {3, 4, 500}) EXPECT_FALSE(Read(page).ok()) << page;
  EXPECT_FALSE(window().AwaitRemapping(before)) << "there is nothing to try again";
}

// Increments in pages that are shared again and again, together and alone, and whose frames are overwritten when they
// have been left. Another thread has the kernel read them, which is never refused for another reason than a remapping.
TEST_F(IslandsTest, NoIncrementIsLostWhilePagesAreSharedAgainAndAgain) {
  constexpr uint64_t kPages = 4;
  constexpr uint64_t kUnshared = 2'000;
  on_left = [this](FrameNumber frame) { Scribble(frame); };
  memory().set_around(PageCount(4));
  std::atomic<bool> stop = false;
  uint64_t increments = 0, reads = 0, retries = 0;
  std::thread writer([&] {
    std::array<uint64_t, kPages> written = {};
    for (uint64_t page = 0; !stop; page = (page + 1) % kPages) {
      ASSERT_EQ(Word(page), written[page]) << "in page " << page;
      Word(page) = ++written[page];
      ++increments;
    }
  });
  std::thread reader([&] {
    uint64_t last = 0;
    while (!stop) {
      const KvmWindow::RemapSequence before = window().remappings();
      const absl::StatusOr<uint64_t> value = Read(1);
      if (value.ok()) {
        ASSERT_GE(*value, last);
        last = *value;
        ++reads;
      } else {
        ASSERT_TRUE(window().AwaitRemapping(before)) << value.status();
        ++retries;
      }
    }
  });
  for (uint64_t round = 0; memory().unshared() < kUnshared && !HasFailure(); ++round) {
    const uint64_t before = memory().unshared();
    if (round % 2 == 0) {
      memory().Share(Pages(0, kPages), FrameNumber(64 + round % 64 * kPages));
    } else {
      memory().Share(Pages(round / 2 % kPages, 1), FrameNumber(round % 64));
    }
    while (memory().unshared() == before && !HasFailure()) std::this_thread::yield();
  }
  stop = true;
  writer.join();
  reader.join();
  uint64_t sum = 0;
  for (uint64_t i = 0; i < kPages; ++i) sum += Word(i);
  EXPECT_EQ(sum, increments);
  EXPECT_GT(reads, 0u);
  memory().Unshare(Pages(0, kPages));
  EXPECT_EQ(Mappings(), 1);
  RecordProperty("retries", std::to_string(retries));
}

// ThreadSanitizer maps memory for itself all the time, and ends the program where it cannot.
#ifdef __SANITIZE_THREAD__
constexpr bool kMayRunOutOfMappings = false;
#else
constexpr bool kMayRunOutOfMappings = true;
#endif

// Takes every mapping that the process may still have, but for `spare`.
class AllMappings {
 public:
  explicit AllMappings(int spare)
      : pages_(*Mapping::Map(ByteCount::Bytes(kMost * kPageSize), PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    // Each cuts the last mapping in two.
    while (taken_ < kMost && Protect(taken_, taken_ % 2 == 0 ? PROT_READ : PROT_WRITE)) ++taken_;
    if (all() && spare > 0) Protect(taken_ - 1 - static_cast<uint64_t>(spare), PROT_NONE);
  }
  bool all() const { return taken_ < kMost; }

 private:
  static constexpr uint64_t kMost = 1 << 18;
  // From this page to the last.
  bool Protect(uint64_t page, int protection) {
    return mprotect(pages_.data() + page * kPageSize, (kMost - page) * kPageSize, protection) == 0;
  }
  const Mapping pages_;
  uint64_t taken_ = 0;
};

TEST_F(IslandsTest, WithoutAMappingLeftAGuestGetsAPageOfItsOwn) {
  if (!kMayRunOutOfMappings) GTEST_SKIP() << "ThreadSanitizer needs mappings itself";
  for (uint64_t i = 0; i < 8; ++i) Word(i) = i + 1;
  memory().Share(Pages(0, 8), FrameNumber(50));
  EXPECT_EQ(Word(0), 1u);
  {
    AllMappings all(0);
    if (!all.all()) GTEST_SKIP() << "vm.max_map_count is more than this test can use up";
    EXPECT_EQ(Word(5), 6u);
  }
  EXPECT_TRUE(memory().IsShared(Gfn(0)));
  EXPECT_FALSE(memory().IsShared(Gfn(5)));
  EXPECT_EQ(window().counters().islands_refused.value(), 1u);
  EXPECT_EQ(Word(6), 7u);
  EXPECT_TRUE(memory().IsShared(Gfn(6)));
}

// Whatever number of mappings is left for it to make islands with, it can unmake them again: a mapping in the middle of
// a run too, whose pages are taken out together then.
TEST_F(IslandsTest, WithoutAMappingLeftIslandsAreWrittenToAndInvalidated) {
  if (!kMayRunOutOfMappings) GTEST_SKIP() << "ThreadSanitizer needs mappings itself";
  on_left = [this](FrameNumber frame) { Scribble(frame); };
  memory().set_around(PageCount(16));
  int made = 0, refused = 0;
  for (int spare = 0; spare < 6; ++spare) {
    for (uint64_t i = 0; i < 48; ++i) Word(i) = i + 1;
    memory().Share(Pages(0, 16), FrameNumber(50));
    memory().Share(Pages(32, 16), FrameNumber(80));
    EXPECT_EQ(Word(0), 1u);  // an island that is there when mappings run out
    {
      AllMappings all(spare);
      if (!all.all()) GTEST_SKIP() << "vm.max_map_count is more than this test can use up";
      EXPECT_EQ(Word(32), 33u);  // another, if there are mappings enough
      ++(memory().IsShared(Gfn(32)) ? made : refused);
      Word(5, 1) = 1;
      for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(Word(i), i + 1);
      memory().Invalidate(Pages(36, 4));
      for (uint64_t i = 32; i < 48; ++i) {
        Word(i, 2) = i;
        EXPECT_EQ(Word(i), i + 1);
      }
    }
    for (uint64_t i = 0; i < 48; ++i) {
      Word(i, 3) = 1;
      EXPECT_EQ(Word(i), i + 1);
    }
    EXPECT_EQ(Mappings(), 1);
  }
  EXPECT_GT(made, 0);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace quire
