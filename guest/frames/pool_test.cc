#include "guest/frames/pool.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr PageCount kLimit = PageCount::OfBlocks(16);
constexpr PageCount kReservations = kLimit * PoolFile::kRoom + PageCount::OfBlocks(4);

bool IsZero(const std::byte* page) {
  return page[0] == std::byte{0} && std::memcmp(page, page + 1, kPageSize - 1) == 0;
}

// On the private tmpfs, where this process may mount one, and on a memfd.
class PoolTest : public ::testing::TestWithParam<PoolFile::Backing> {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Pool>> pool = Pool::Create(
        {.limit = kLimit, .reservations = kReservations, .use_memfd = GetParam() == PoolFile::Backing::kMemfd});
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    if (pool_->file().backing() != GetParam()) GTEST_SKIP() << "this process may not mount a tmpfs";
  }
  void TearDown() override {
    if (pool_ == nullptr) return;
    EXPECT_EQ(pool_->Check(), absl::OkStatus());
    ExpectFileHoldsWhatIsCharged();
  }

  void ExpectFileHoldsWhatIsCharged() {
    EXPECT_EQ(pool_->file().PopulatedPages(), pool_->budget().charged());
    EXPECT_LE(pool_->budget().peak(), pool_->budget().limit());
  }
  // Takes frames until the pool has no more for guests.
  std::vector<FrameNumber> TakeAllFrames() {
    std::vector<FrameNumber> frames;
    for (;;) {
      const absl::StatusOr<FrameNumber> frame = pool_->AllocateFrame();
      if (!frame.ok()) return frames;
      frames.push_back(*frame);
    }
  }
  void FreeFrames(const std::vector<FrameNumber>& frames) {
    for (const FrameNumber frame : frames) pool_->FreeFrame(frame);
  }

  std::unique_ptr<Pool> pool_;
};

TEST_P(PoolTest, AFreshPoolHoldsNothing) {
  EXPECT_EQ(pool_->file().PopulatedPages(), PageCount());
  EXPECT_EQ(pool_->FreePages(), kLimit);
  EXPECT_GT(pool_->file().size(), kLimit + kReservations) << "there is room for tables";
}

TEST_P(PoolTest, ReservationsAreWholeBlocksOfTheirOwnThatCostNothing) {
  const FrameRange a = pool_->AddReservation(PageCount(513)).value();
  const FrameRange b = pool_->AddReservation(PageCount(1)).value();
  EXPECT_EQ(a, FrameRange(FrameNumber(kLimit.in_pages()), PageCount::OfBlocks(2)));
  EXPECT_EQ(b, FrameRange(a.end(), kOneBlock));
  EXPECT_EQ(pool_->AddReservation(kReservations).status().code(), absl::StatusCode::kInvalidArgument);
  pool_->ReturnReservation(a);
  EXPECT_EQ(pool_->AddReservation(PageCount(1024)).value(), a) << "as many blocks";
  EXPECT_EQ(pool_->budget().charged(), PageCount());
}

TEST_P(PoolTest, ReservedPagesArePopulatedWithZerosAndPunchedAgain) {
  const FrameRange reservation = pool_->AddReservation(kOneBlock).value();
  const FrameRange run(reservation.begin() + PageCount(7), PageCount(16));
  for (int round = 0; round < 2; ++round) {
    ASSERT_EQ(pool_->PopulateReserved(run), absl::OkStatus());
    EXPECT_EQ(pool_->budget().charged(), PageCount(16));
    ExpectFileHoldsWhatIsCharged();
    for (FrameNumber frame = run.begin(); frame < run.end(); ++frame) {
      ASSERT_TRUE(IsZero(pool_->Frame(frame))) << frame;
      std::memset(pool_->Frame(frame), 0xab, kPageSize);
    }
    ExpectFileHoldsWhatIsCharged();
    pool_->ReleaseReserved(run);
    EXPECT_EQ(pool_->budget().charged(), PageCount());
    ExpectFileHoldsWhatIsCharged();
  }
}

TEST_P(PoolTest, APartOfAPopulatedRunCanBePunchedByItself) {
  const FrameRange reservation = pool_->AddReservation(kOneBlock).value();
  ASSERT_EQ(pool_->PopulateReserved(reservation), absl::OkStatus());
  std::memset(pool_->Frame(reservation.begin()), 1, kOneBlock.in_bytes());
  pool_->ReleaseReserved(FrameRange(reservation.begin() + kOnePage, PageCount(100)));
  EXPECT_EQ(pool_->budget().charged(), kOneBlock - PageCount(100));
  ExpectFileHoldsWhatIsCharged();
  EXPECT_FALSE(IsZero(pool_->Frame(reservation.begin())));
  EXPECT_FALSE(IsZero(pool_->Frame(reservation.begin() + PageCount(101))));
  pool_->ReleaseReserved(FrameRange(reservation.begin(), kOnePage));
  pool_->ReleaseReserved(FrameRange(reservation.begin() + PageCount(101), reservation.end()));
}

// Somebody's reference to one page of a 2 MiB folio keeps the kernel from splitting it, and a hole from becoming one.
TEST_P(PoolTest, PagesThatTheKernelWillNotLetGoStayChargedUntilItDoes) {
  const FrameRange home = pool_->AddReservation(kOneBlock).value();
  ASSERT_EQ(pool_->PopulateReserved(home), absl::OkStatus());
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  UniqueFd read_end(pipe_fds[0]), write_end(pipe_fds[1]);
  std::byte* const held = pool_->BlockOfFrames(home.begin() + PageCount(300));
  held[0] = std::byte{7};
  const iovec page = {held, kPageSize};
  ASSERT_EQ(vmsplice(write_end.get(), &page, 1, 0), static_cast<ssize_t>(kPageSize));

  const FrameRange part(home.begin() + PageCount(100), PageCount(50));
  pool_->BlockOfFrames(part.begin())[0] = std::byte{9};
  pool_->ReleaseReserved(part);
  ExpectFileHoldsWhatIsCharged();
  if (GetParam() == PoolFile::Backing::kTmpfs && pool_->reservations_have_blocks()) {
    EXPECT_EQ(pool_->budget().charged(), kOneBlock);
  }
  // What is wanted again meanwhile is paid for once, and reads as zero.
  ASSERT_EQ(pool_->PopulateReserved(FrameRange(part.begin(), PageCount(10))), absl::OkStatus());
  EXPECT_TRUE(IsZero(pool_->Frame(part.begin())));
  ExpectFileHoldsWhatIsCharged();

  read_end.reset();
  write_end.reset();
  pool_->ReleaseReserved(FrameRange(home.begin(), PageCount(1)));
  EXPECT_EQ(pool_->budget().charged(), kOneBlock - PageCount(50 - 10 + 1));
  ExpectFileHoldsWhatIsCharged();
}

TEST_P(PoolTest, ArenaFramesAreChargedByWholeBlocks) {
  const FrameNumber frame = pool_->AllocateFrame().value();
  EXPECT_EQ(pool_->budget().charged(), kOneBlock);
  ExpectFileHoldsWhatIsCharged();
  std::memset(pool_->Frame(frame), 1, kPageSize);
  ExpectFileHoldsWhatIsCharged();
  pool_->FreeFrame(frame);
}

TEST_P(PoolTest, BothAliasesShowTheSameFrame) {
  const FrameNumber frame = pool_->AllocateFrame().value();
  std::memset(pool_->file().HugeAlias(frame), 0x5a, kPageSize);
  EXPECT_EQ(std::memcmp(pool_->file().HugeAlias(frame), pool_->file().SmallAlias(frame), kPageSize), 0);
  EXPECT_NE(pool_->file().HugeAlias(frame), pool_->file().SmallAlias(frame));
  pool_->FreeFrame(frame);
}

TEST_P(PoolTest, GuestsGetWhatLiesAboveMinAndReclaimTheRest) {
  const std::vector<FrameNumber> frames = TakeAllFrames();
  EXPECT_EQ(pool_->AllocateFrame().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_LE(pool_->FreePages(), pool_->watermarks().min);
  // Short of exactly that by what lies in per-CPU lists, which is refilled by batches.
  EXPECT_GE(PageCount(frames.size()) + PageCount(Arena::kCpuListCapacity * std::thread::hardware_concurrency()),
            kLimit - pool_->watermarks().min);
  EXPECT_LE(PageCount(frames.size()), kLimit - pool_->watermarks().min);

  std::vector<FrameNumber> reserve;
  for (;;) {
    const absl::StatusOr<FrameNumber> frame = pool_->arena().Allocate(0, Reserve::kReclaim);
    if (!frame.ok()) break;
    reserve.push_back(*frame);
  }
  EXPECT_EQ(frames.size() + reserve.size(), kLimit.in_pages());
  EXPECT_EQ(pool_->budget().charged(), kLimit);
  EXPECT_EQ(pool_->FreePages(), PageCount());
  ExpectFileHoldsWhatIsCharged();
  for (const FrameNumber frame : reserve) pool_->arena().Free(frame, 0);
  FreeFrames(frames);
}

TEST_P(PoolTest, ReservationsGetWhatLiesAboveMinTogetherWithTheArena) {
  const FrameRange reservation = pool_->AddReservation(kReservations).value();
  const FrameNumber frame = pool_->AllocateFrame().value();
  pool_->arena().DrainCpuLists();
  // The free frames around that one are of no use to a reservation, but reclaim can have them: they are of the reserve.
  const PageCount left = kLimit - pool_->watermarks().min - kOnePage;
  EXPECT_EQ(pool_->PopulateReserved(FrameRange(reservation.begin(), left + kOnePage)).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(pool_->budget().charged(), kOneBlock);
  const FrameRange all(reservation.begin(), left);
  EXPECT_EQ(pool_->PopulateReserved(all), absl::OkStatus());
  ExpectFileHoldsWhatIsCharged();
  pool_->ReleaseReserved(all);
  pool_->FreeFrame(frame);
}

TEST_P(PoolTest, BlocksThatTheArenaKeepsUnusedGoToReservations) {
  const FrameRange reservation = pool_->AddReservation(kReservations).value();
  const FrameRange wired = pool_->AllocateWired(PageCount::OfBlocks(4)).value();
  pool_->FreeWired(wired);
  ASSERT_GT(pool_->budget().charged(), PageCount());  // kept, in case the arena wants them back
  const FrameRange all(reservation.begin(), kLimit - pool_->watermarks().min);
  EXPECT_EQ(pool_->PopulateReserved(all), absl::OkStatus());
  ExpectFileHoldsWhatIsCharged();
  pool_->ReleaseReserved(all);
}

TEST_P(PoolTest, LowMemoryIsReportedBelowTheLowWatermarkOnly) {
  std::atomic<int> calls = 0;
  pool_->SetLowMemoryCallback([&] { ++calls; });
  const FrameRange reservation = pool_->AddReservation(kReservations).value();
  const FrameRange down_to_low(reservation.begin(), kLimit - pool_->watermarks().low);
  ASSERT_EQ(pool_->PopulateReserved(down_to_low), absl::OkStatus());
  EXPECT_EQ(calls, 0);
  const FrameRange one_more(down_to_low.end(), kOnePage);
  ASSERT_EQ(pool_->PopulateReserved(one_more), absl::OkStatus());
  EXPECT_EQ(calls, 1);
  pool_->ReleaseReserved(down_to_low);
  pool_->ReleaseReserved(one_more);

  std::vector<FrameNumber> frames;
  while (pool_->FreePages() >= pool_->watermarks().low) {
    calls = 0;
    frames.push_back(pool_->AllocateFrame().value());
    EXPECT_EQ(calls > 0, pool_->FreePages() < pool_->watermarks().low);
  }
  FreeFrames(frames);
}

TEST_P(PoolTest, WiredMemoryIsInOnePieceZeroedAndCounted) {
  // Dirty frames first, so that they are what wired memory is made of.
  const std::vector<FrameNumber> frames = TakeAllFrames();
  for (const FrameNumber frame : frames) std::memset(pool_->Frame(frame), 0xff, kPageSize);
  FreeFrames(frames);
  const PageCount size = kOneBlock + PageCount(3);
  const FrameRange wired = pool_->AllocateWired(size).value();
  EXPECT_EQ(wired.size(), size);
  EXPECT_TRUE(pool_->arena().range().contains(wired));
  EXPECT_EQ(pool_->wired(), size);
  for (FrameNumber frame = wired.begin(); frame < wired.end(); ++frame) {
    ASSERT_TRUE(IsZero(pool_->Frame(frame))) << frame;
    ASSERT_EQ(pool_->arena().frames().Get(frame), FrameDescriptor::Wired());
  }
  pool_->FreeWired(wired);
  EXPECT_EQ(pool_->wired(), PageCount());
}

TEST_P(PoolTest, WiredMemoryThatDoesNotFitIsRefusedAndChangesNothing) {
  EXPECT_EQ(pool_->AllocateWired(kLimit).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(pool_->AllocateWired(kLimit + kOnePage).ok());
  EXPECT_EQ(pool_->wired(), PageCount());
  EXPECT_EQ(pool_->FreePages(), kLimit);
}

TEST_P(PoolTest, AHostWithoutMemoryIsAnotherErrorThanAFullPool) {
  if (GetParam() == PoolFile::Backing::kMemfd) GTEST_SKIP() << "only the tmpfs has a size that can be used up";
  // The pool does not know of these pages, so to it the filesystem is full too early.
  const FrameRange reservation = pool_->AddReservation(kReservations).value();
  const FrameRange hog(reservation.begin(), kLimit * PoolFile::kRoom - PageCount(100));
  ASSERT_EQ(fallocate(pool_->file().fd(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(hog.begin().value() * kPageSize),
                      static_cast<off_t>(hog.size().in_bytes())),
            0);
  EXPECT_THAT(std::string(pool_->Check().message()), HasSubstr("invariant 9"));

  const absl::Status arena = pool_->AllocateFrame().status();
  EXPECT_EQ(arena.code(), absl::StatusCode::kResourceExhausted) << arena;
  EXPECT_THAT(std::string(arena.message()), HasSubstr("host"));
  const FrameRange run(hog.end(), PageCount(200));
  const absl::Status reserved = pool_->PopulateReserved(run);
  EXPECT_EQ(reserved.code(), absl::StatusCode::kResourceExhausted) << reserved;
  EXPECT_THAT(std::string(reserved.message()), HasSubstr("host"));
  // Neither left anything behind.
  EXPECT_EQ(pool_->budget().charged(), PageCount());
  EXPECT_EQ(pool_->file().PopulatedPages(), hog.size());

  ASSERT_EQ(fallocate(pool_->file().fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      static_cast<off_t>(hog.begin().value() * kPageSize), static_cast<off_t>(hog.size().in_bytes())),
            0);
  pool_->FreeFrame(pool_->AllocateFrame().value());
}

TEST_P(PoolTest, ThreadsThatAllocateAndFreeStayWithinTheLimit) {
  constexpr int kThreads = 4;
  constexpr int kSteps = 3'000;
  const FrameRange all = pool_->AddReservation(kReservations).value();
  // So much is taken that each thread alone comes to the limit, even if they run one after the other.
  const FrameRange taken(all.begin(), kLimit - pool_->watermarks().min - PageCount::OfBlocks(1));
  ASSERT_EQ(pool_->PopulateReserved(taken), absl::OkStatus());
  const FrameRange reservation(taken.end(), all.size() - taken.size());
  std::atomic<int> refused = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      std::vector<FrameNumber> frames;
      std::vector<FrameRange> runs;
      FrameNumber next = reservation.begin() + reservation.size() / kThreads * t;
      const FrameNumber end = next + reservation.size() / kThreads;
      for (int i = 0; i < kSteps; ++i) {
        const FrameRange run(next, PageCount(16));
        if (random() % 4 != 0 && run.end() <= end) {
          if (const absl::Status status = pool_->PopulateReserved(run); status.ok()) {
            runs.push_back(run);
            next = run.end();
          } else {
            ASSERT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
            ++refused;
          }
        } else if (absl::StatusOr<FrameNumber> frame = pool_->AllocateFrame(); frame.ok()) {
          frames.push_back(*frame);
          std::memset(pool_->Frame(*frame), t, kPageSize);
        } else {
          ASSERT_EQ(frame.status().code(), absl::StatusCode::kUnavailable) << frame.status();
          ++refused;
        }
        if (random() % 256 != 0) continue;
        for (const FrameNumber frame : frames) {
          ASSERT_EQ(*pool_->Frame(frame), static_cast<std::byte>(t));
          pool_->FreeFrame(frame);
        }
        for (const FrameRange& r : runs) pool_->ReleaseReserved(r);
        if (!runs.empty()) next = runs.front().begin();
        frames.clear();
        runs.clear();
      }
      for (const FrameNumber frame : frames) pool_->FreeFrame(frame);
      for (const FrameRange& r : runs) pool_->ReleaseReserved(r);
    });
  }
  for (std::thread& thread : threads) thread.join();
  pool_->ReleaseReserved(taken);
  EXPECT_GT(refused, 0);
  ExpectFileHoldsWhatIsCharged();
}

INSTANTIATE_TEST_SUITE_P(Backings, PoolTest, ::testing::Values(PoolFile::Backing::kTmpfs, PoolFile::Backing::kMemfd),
                         [](const auto& info) { return info.param == PoolFile::Backing::kTmpfs ? "Tmpfs" : "Memfd"; });

TEST(PoolOptionsTest, ALimitIsRoundedDownToWholeBlocks) {
  const std::unique_ptr<Pool> pool = Pool::Create({.limit = kLimit + PageCount(511), .reservations = {}}).value();
  EXPECT_EQ(pool->budget().limit(), kLimit);
}

TEST(PoolOptionsTest, ALimitTooSmallToWorkInIsRefusedAndTheSmallestIsNamed) {
  const absl::Status status = Pool::Create({.limit = MinimumPoolLimit() - kOnePage, .reservations = {}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("16 MiB"));
  EXPECT_TRUE(Pool::Create({.limit = MinimumPoolLimit(), .reservations = {}}).ok());
}

}  // namespace
}  // namespace quire
