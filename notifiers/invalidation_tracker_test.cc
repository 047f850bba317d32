#include "notifiers/invalidation_tracker.h"

#include <atomic>
#include <cstdint>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

GfnRange Pages(uint64_t begin, uint64_t end) { return GfnRange(Gfn(begin), Gfn(end)); }

TEST(InvalidationTrackerTest, NothingHappenedNothingToRetry) {
  InvalidationTracker tracker;
  EXPECT_FALSE(tracker.MustRetry(tracker.TakeSnapshot(), Gfn(0)));
}

TEST(InvalidationTrackerTest, RangeInProgressMustRetryOthersNeedNot) {
  InvalidationTracker tracker;
  const auto snapshot = tracker.TakeSnapshot();
  tracker.Begin();
  tracker.AddRange(Pages(10, 20));
  EXPECT_TRUE(tracker.MustRetry(snapshot, Gfn(10)));
  EXPECT_TRUE(tracker.MustRetry(snapshot, Gfn(19)));
  EXPECT_TRUE(tracker.MustRetry(snapshot, Pages(0, 11)));
  EXPECT_FALSE(tracker.MustRetry(snapshot, Gfn(9)));
  EXPECT_FALSE(tracker.MustRetry(snapshot, Gfn(20)));
}

TEST(InvalidationTrackerTest, SnapshotTakenDuringAnInvalidationDoesNotHelp) {
  InvalidationTracker tracker;
  tracker.Begin();
  tracker.AddRange(Pages(10, 20));
  const auto snapshot = tracker.TakeSnapshot();
  EXPECT_TRUE(tracker.MustRetry(snapshot, Gfn(10)));
  tracker.End();
  EXPECT_TRUE(tracker.MustRetry(snapshot, Gfn(10)));
  EXPECT_FALSE(tracker.MustRetry(tracker.TakeSnapshot(), Gfn(10)));
}

TEST(InvalidationTrackerTest, AnEndInBetweenMustRetryWhateverItsRange) {
  InvalidationTracker tracker;
  const auto snapshot = tracker.TakeSnapshot();
  tracker.Begin();
  tracker.AddRange(Pages(10, 20));
  tracker.End();
  EXPECT_TRUE(tracker.MustRetry(snapshot, Gfn(1000)));
}

TEST(InvalidationTrackerTest, HullGrowsUntilNothingIsInProgress) {
  InvalidationTracker tracker;
  tracker.Begin();
  tracker.AddRange(Pages(10, 20));
  tracker.Begin();
  tracker.AddRange(Pages(40, 50));
  tracker.End();
  auto snapshot = tracker.TakeSnapshot();
  EXPECT_EQ(tracker.in_progress(), 1u);
  EXPECT_TRUE(tracker.MustRetry(snapshot, Gfn(30)));  // between the two: the price of a hull
  tracker.End();
  snapshot = tracker.TakeSnapshot();
  tracker.Begin();
  tracker.AddRange(Pages(60, 70));
  EXPECT_FALSE(tracker.MustRetry(snapshot, Gfn(30)));  // forgotten
  tracker.End();
}

TEST(InvalidationTrackerDeathTest, EndNeedsABegin) {
  InvalidationTracker tracker;
  EXPECT_DEATH(tracker.End(), "broken invariant");
}

// One page, its entry on the primary side, and what a secondary MMU has installed for it.
struct World {
  std::atomic<uint64_t> entry{0};
  absl::Mutex mu;
  InvalidationTracker tracker ABSL_GUARDED_BY(mu);
  uint64_t installed ABSL_GUARDED_BY(mu) = 0;
  std::atomic<uint64_t> retries{0};
};

constexpr uint64_t kNothing = ~uint64_t{0};

// `entry` is read between the snapshot and the lock, as a fault does; whatever is installed must be current, and stay
// so until it has been zapped.
void Fault(World& world, const InvalidationTracker& tracker) {
  for (;;) {
    const auto snapshot = tracker.TakeSnapshot();
    const uint64_t resolved = world.entry.load(std::memory_order_relaxed);
    std::this_thread::yield();
    absl::MutexLock lock(&world.mu);
    if (world.tracker.MustRetry(snapshot, Gfn(0))) {
      ++world.retries;
      continue;
    }
    world.installed = resolved;
    ASSERT_EQ(resolved, world.entry.load(std::memory_order_relaxed));
    return;
  }
}

void Invalidate(World& world) {
  {
    absl::MutexLock lock(&world.mu);
    world.tracker.Begin();
    world.tracker.AddRange(Pages(0, 1));
    world.installed = kNothing;
  }
  world.entry.fetch_add(1, std::memory_order_relaxed);
  std::this_thread::yield();
  absl::MutexLock lock(&world.mu);
  ASSERT_EQ(world.installed, kNothing);
  world.tracker.End();
}

TEST(InvalidationTrackerTest, NoStaleInstallUnderFire) {
  World world;
  // Snapshots are taken without the lock, as documented.
  const InvalidationTracker& tracker = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS -> InvalidationTracker& {
    return world.tracker;
  }();
  std::atomic<bool> stop{false};
  std::thread faulter([&] {
    while (!stop) Fault(world, tracker);
  });
  for (int i = 0; i < 20'000 || world.retries == 0; ++i) Invalidate(world);
  stop = true;
  faulter.join();
  EXPECT_GT(world.retries.load(), 0u);
}

}  // namespace
}  // namespace quire
