#include "notifiers/interval_notifier.h"

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "notifiers/notifier_chain.h"

namespace quire {
namespace {

GfnRange Pages(uint64_t begin, uint64_t end) { return GfnRange(Gfn(begin), Gfn(end)); }

// A device with one buffer and a lock of its own.
class Device final : public IntervalSubscription {
 public:
  explicit Device(GfnRange range) : IntervalSubscription(range) {}

  bool Invalidate(const Invalidation& invalidation, uint64_t sequence) override {
    if (busy && !invalidation.blockable) return false;
    absl::MutexLock lock(&mu);
    SetSequence(sequence);
    ++invalidations;
    last_event = invalidation.event;
    return true;
  }

  absl::Mutex mu;
  std::atomic<bool> busy{false};
  std::atomic<int> invalidations{0};
  InvalidateEvent last_event ABSL_GUARDED_BY(mu) = InvalidateEvent::kUnmap;
};

class IntervalNotifierTest : public testing::Test {
 protected:
  NotifierChain chain_;
  IntervalNotifier notifier_{chain_};
};

TEST_F(IntervalNotifierTest, OnlyOverlappingRangesAreTold) {
  Device low(Pages(0, 10)), high(Pages(10, 20));
  notifier_.Insert(&low);
  notifier_.Insert(&high);
  ScopedInvalidation(chain_, {.range = Pages(9, 10)}).End();
  EXPECT_EQ(low.invalidations, 1);
  EXPECT_EQ(high.invalidations, 0);
  notifier_.Remove(&low);
  notifier_.Remove(&high);
}

TEST_F(IntervalNotifierTest, ReadRetriesAfterAnInvalidationOfItsRangeOnly) {
  Device device(Pages(0, 10));
  notifier_.Insert(&device);
  const uint64_t before = notifier_.ReadBegin(device);
  EXPECT_FALSE(device.ReadRetry(before));
  ScopedInvalidation(chain_, {.range = Pages(10, 20)}).End();
  EXPECT_FALSE(device.ReadRetry(before));
  ScopedInvalidation(chain_, {.range = Pages(0, 1)}).End();
  EXPECT_TRUE(device.CheckRetry(before));
  EXPECT_TRUE(device.ReadRetry(before));
  EXPECT_FALSE(device.ReadRetry(notifier_.ReadBegin(device)));
  notifier_.Remove(&device);
}

TEST_F(IntervalNotifierTest, ReadBeginSleepsWhileItsRangeIsInvalidated) {
  Device device(Pages(0, 10));
  notifier_.Insert(&device);
  auto invalidation = std::make_unique<ScopedInvalidation>(chain_, Invalidation{.range = Pages(0, 1)});
  std::atomic<bool> ended{false};
  std::thread reader([&] {
    const uint64_t sequence = notifier_.ReadBegin(device);
    EXPECT_TRUE(ended);
    EXPECT_FALSE(device.ReadRetry(sequence));
  });
  for (int i = 0; i < 100; ++i) std::this_thread::yield();
  ended = true;
  invalidation.reset();
  reader.join();
  notifier_.Remove(&device);
}

TEST_F(IntervalNotifierTest, ReadBeginDoesNotSleepForOtherRanges) {
  Device device(Pages(0, 10)), other(Pages(10, 20));
  notifier_.Insert(&device);
  notifier_.Insert(&other);
  {
    ScopedInvalidation invalidation(chain_, {.range = Pages(10, 11)});
    EXPECT_FALSE(device.ReadRetry(notifier_.ReadBegin(device)));
  }
  notifier_.Remove(&device);
  notifier_.Remove(&other);
}

TEST_F(IntervalNotifierTest, InsertDuringAnInvalidationIsTakenToBeCovered) {
  Device device(Pages(0, 10)), late(Pages(100, 110));
  notifier_.Insert(&device);
  for (const GfnRange range : {Pages(0, 1), Pages(50, 51)}) {  // with and without a subscription that it meets
    auto invalidation = std::make_unique<ScopedInvalidation>(chain_, Invalidation{.range = range});
    notifier_.Insert(&late);
    std::atomic<bool> ended{false};
    std::thread reader([&] {
      notifier_.ReadBegin(late);
      EXPECT_TRUE(ended);
    });
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
    ended = true;
    invalidation.reset();
    reader.join();
    ScopedInvalidation(chain_, {.range = Pages(105, 106)}).End();
    EXPECT_GT(late.invalidations.exchange(0), 0);
    notifier_.Remove(&late);
  }
  notifier_.Remove(&device);
}

TEST_F(IntervalNotifierTest, InsertCanBeTakenBackDuringTheInvalidation) {
  Device device(Pages(0, 10)), late(Pages(0, 10));
  notifier_.Insert(&device);
  {
    ScopedInvalidation invalidation(chain_, {.range = Pages(0, 1)});
    notifier_.Insert(&late);
    notifier_.Remove(&late);
  }
  ScopedInvalidation(chain_, {.range = Pages(0, 1)}).End();
  EXPECT_EQ(late.invalidations, 0);
  notifier_.Remove(&device);
}

TEST_F(IntervalNotifierTest, RemoveWaitsForTheLastEnd) {
  Device device(Pages(0, 10));
  notifier_.Insert(&device);
  auto first = std::make_unique<ScopedInvalidation>(chain_, Invalidation{.range = Pages(0, 1)});
  auto second = std::make_unique<ScopedInvalidation>(chain_, Invalidation{.range = Pages(90, 91)});
  std::atomic<bool> ended{false};
  std::thread remover([&] {
    notifier_.Remove(&device);
    EXPECT_TRUE(ended);
  });
  first.reset();
  for (int i = 0; i < 100; ++i) std::this_thread::yield();
  ended = true;
  second.reset();
  remover.join();
}

TEST_F(IntervalNotifierTest, ABusyDeviceRefusesAndIsLeftBalanced) {
  Device idle(Pages(0, 10)), busy(Pages(0, 10));
  notifier_.Insert(&idle);
  notifier_.Insert(&busy);
  busy.busy = true;
  EXPECT_TRUE(absl::IsUnavailable(ScopedInvalidation::TryStart(chain_, {.range = Pages(0, 1)}).status()));
  // Nothing is in progress: these would sleep forever otherwise.
  notifier_.ReadBegin(idle);
  notifier_.Remove(&idle);
  ScopedInvalidation(chain_, {.range = Pages(0, 1)}).End();  // blockable: not refused
  EXPECT_EQ(busy.invalidations, 1);
  notifier_.Remove(&busy);
}

TEST_F(IntervalNotifierTest, ReleaseInvalidatesEverything) {
  Device device(Pages(1'000'000, 1'000'001));
  notifier_.Insert(&device);
  const uint64_t before = notifier_.ReadBegin(device);
  chain_.Release();
  {
    absl::MutexLock lock(&device.mu);
    EXPECT_EQ(device.last_event, InvalidateEvent::kRelease);
    EXPECT_TRUE(device.ReadRetry(before));
  }
  notifier_.Remove(&device);
}

// What the documentation promises, kept in the plainest way: for each device the number of invalidations that met it.
// Removals happen while nothing is in progress, since they would sleep.
class RandomOperations {
 public:
  explicit RandomOperations(uint32_t seed) : random_(seed) {}

  void Run(int operations) {
    for (int i = 0; i < operations; ++i) Step();
    while (!active_.empty()) EndOne();
    while (!devices_.empty()) RemoveOne();
  }

 private:
  struct Model {
    uint64_t sequence = 0;  // of the last ReadBegin
    bool has_read = false;
    bool stale = false;  // an invalidation has met it since
    bool deferred = false;
    int met = 0;
  };
  struct Entry {
    std::unique_ptr<Device> device;
    Model model;
  };

  uint64_t Below(uint64_t n) { return random_() % n; }
  GfnRange AnyRange() {
    const uint64_t begin = Below(64);
    return Pages(begin, begin + 1 + Below(16));
  }

  void Step() {
    switch (Below(5)) {
      case 0:
        return Insert();
      case 1:
        if (active_.empty() && !devices_.empty()) RemoveOne();
        return;
      case 2:
        return StartOne();
      case 3:
        if (!active_.empty()) EndOne();
        return;
      case 4:
        return ReadAll();
    }
  }

  void Insert() {
    Entry entry{std::make_unique<Device>(AnyRange()), {}};
    entry.model.deferred = met_any_;
    entry.model.stale = !active_.empty();  // ReadBegin would sleep
    met_any_ |= !active_.empty();
    notifier_.Insert(entry.device.get());
    devices_.push_back(std::move(entry));
  }
  void RemoveOne() {
    const size_t i = Below(devices_.size());
    notifier_.Remove(devices_[i].device.get());
    devices_.erase(devices_.begin() + i);
  }
  void StartOne() {
    const GfnRange range = AnyRange();
    for (Entry& e : devices_) {
      if (e.model.deferred || !e.device->range().overlaps(range)) continue;
      met_any_ = e.model.stale = true;
      ++e.model.met;
    }
    active_.push_back(std::make_unique<ScopedInvalidation>(chain_, Invalidation{.range = range}));
    Check();
  }
  void EndOne() {
    active_.erase(active_.begin() + Below(active_.size()));
    if (!active_.empty()) return;
    met_any_ = false;
    for (Entry& e : devices_) e.model.deferred = false;
  }
  // Reads those that no invalidation meets; the others would sleep.
  void ReadAll() {
    for (Entry& e : devices_) {
      if (e.model.stale && !active_.empty()) continue;
      e.model.sequence = notifier_.ReadBegin(*e.device);
      e.model.has_read = true;
      e.model.stale = false;
    }
    Check();
  }
  void Check() {
    for (Entry& e : devices_) {
      ASSERT_EQ(e.device->invalidations, e.model.met);
      if (!e.model.has_read) continue;
      ASSERT_EQ(e.device->ReadRetry(e.model.sequence), e.model.stale);
    }
  }

  std::mt19937 random_;
  NotifierChain chain_;
  IntervalNotifier notifier_{chain_};
  std::vector<Entry> devices_;
  std::vector<std::unique_ptr<ScopedInvalidation>> active_;
  bool met_any_ = false;  // an invalidation under way has met a subscription
};

TEST(IntervalNotifierModelTest, RandomOperationsMatchANaiveModel) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    RandomOperations(seed).Run(2'000);
  }
}

// A buffer of one page whose entry changes all the time: what the device uses under its lock is always current.
TEST(IntervalNotifierModelTest, NoStaleUseUnderFire) {
  NotifierChain chain;
  IntervalNotifier notifier(chain);
  Device device(Pages(0, 1));
  notifier.Insert(&device);
  std::atomic<uint64_t> entry{0};
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) {
      const uint64_t sequence = notifier.ReadBegin(device);
      const uint64_t resolved = entry;
      std::this_thread::yield();
      absl::MutexLock lock(&device.mu);
      if (device.ReadRetry(sequence)) continue;
      ASSERT_EQ(resolved, entry);
    }
  });
  for (int i = 0; i < 10'000; ++i) {
    ScopedInvalidation invalidation(chain, {.range = Pages(0, 1)});
    ++entry;
  }
  stop = true;
  reader.join();
  notifier.Remove(&device);
}

}  // namespace
}  // namespace quire
