#include "notifiers/notifier_chain.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "notifiers/recording_notifier.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

GfnRange Pages(uint64_t begin, uint64_t end) { return GfnRange(Gfn(begin), Gfn(end)); }

// Registers on construction, unregisters on destruction.
class Subscription {
 public:
  Subscription(NotifierChain& chain, MmuNotifier* subscriber) : chain_(chain), subscriber_(subscriber) {
    chain_.Register(subscriber_);
  }
  ~Subscription() { chain_.Unregister(subscriber_); }

 private:
  NotifierChain& chain_;
  MmuNotifier* subscriber_;
};

class NotifierChainTest : public testing::Test {
 protected:
  NotifierChainTest() : a_("a"), b_("b"), c_("c") {
    for (RecordingNotifier* n : {&a_, &b_, &c_}) {
      n->LogInto(&log_);
      chain_.Register(n);
    }
  }
  ~NotifierChainTest() override {
    for (RecordingNotifier* n : {&a_, &b_, &c_}) chain_.Unregister(n);
  }

  NotifierChain chain_;
  std::vector<std::string> log_;
  RecordingNotifier a_, b_, c_;
};

TEST_F(NotifierChainTest, StartsAndEndsReachEverySubscriberInOrder) {
  {
    ScopedInvalidation invalidation(chain_, {.range = Pages(3, 5)});
    EXPECT_THAT(log_, ElementsAre("a: start [3, 5)", "b: start [3, 5)", "c: start [3, 5)"));
    log_.clear();
  }
  EXPECT_THAT(log_, ElementsAre("a: end [3, 5)", "b: end [3, 5)", "c: end [3, 5)"));
  EXPECT_EQ(chain_.invalidations(), 1u);
  EXPECT_EQ(chain_.pages(), 2u);
}

TEST_F(NotifierChainTest, AnEarlyEndIsTheOnlyOne) {
  ScopedInvalidation invalidation(chain_, {.range = Pages(0, 1)});
  invalidation.End();
  log_.clear();
  invalidation.End();
  EXPECT_THAT(log_, IsEmpty());
}

TEST_F(NotifierChainTest, MovingCarriesTheEndAlong) {
  {
    ScopedInvalidation first(chain_, {.range = Pages(0, 1)});
    log_.clear();
    ScopedInvalidation second(std::move(first));
    EXPECT_THAT(log_, IsEmpty());
  }
  EXPECT_EQ(log_.size(), 3u);
}

TEST_F(NotifierChainTest, InvalidationsMayOverlap) {
  ScopedInvalidation outer(chain_, {.range = Pages(0, 8)});
  {
    ScopedInvalidation inner(chain_, {.range = Pages(4, 12)});
    EXPECT_TRUE(a_.IsInvalidating(Gfn(11)));
  }
  EXPECT_FALSE(a_.IsInvalidating(Gfn(11)));
  EXPECT_TRUE(a_.IsInvalidating(Gfn(4)));
}

TEST_F(NotifierChainTest, NonBlockableStartThatNobodyRefusesIsLikeAnyOther) {
  {
    absl::StatusOr<ScopedInvalidation> invalidation = ScopedInvalidation::TryStart(chain_, {.range = Pages(0, 1)});
    ASSERT_TRUE(invalidation.ok());
    EXPECT_THAT(log_, ElementsAre("a: start [0, 1)", "b: start [0, 1)", "c: start [0, 1)"));
    log_.clear();
  }
  EXPECT_THAT(log_, ElementsAre("a: end [0, 1)", "b: end [0, 1)", "c: end [0, 1)"));
}

// All are called, before and after the one that refuses; those that started get their end; the one that refused does
// not; and the caller has nothing to end.
TEST_F(NotifierChainTest, RefusedStartIsRolledBack) {
  b_.Refuse(true);
  {
    const auto invalidation = ScopedInvalidation::TryStart(chain_, {.range = Pages(0, 1)});
    EXPECT_TRUE(absl::IsUnavailable(invalidation.status())) << invalidation.status();
    EXPECT_THAT(log_, ElementsAre("a: start [0, 1)", "b: refuse [0, 1)", "c: start [0, 1)",  //
                                  "a: end [0, 1)", "c: end [0, 1)"));
    log_.clear();
  }
  EXPECT_THAT(log_, IsEmpty());
  EXPECT_EQ(chain_.invalidations(), 0u);
}

TEST_F(NotifierChainTest, SeveralMayRefuse) {
  a_.Refuse(true);
  c_.Refuse(true);
  EXPECT_FALSE(ScopedInvalidation::TryStart(chain_, {.range = Pages(0, 1)}).ok());
  EXPECT_THAT(log_, ElementsAre("a: refuse [0, 1)", "b: start [0, 1)", "c: refuse [0, 1)", "b: end [0, 1)"));
}

TEST_F(NotifierChainTest, BlockableStartIsNeverRefused) {
  b_.Refuse(true);
  ScopedInvalidation invalidation(chain_, {.range = Pages(0, 1)});
  EXPECT_TRUE(b_.IsInvalidating(Gfn(0)));
}

TEST_F(NotifierChainTest, YoungAnswersAreOredAndEverybodyIsAsked) {
  a_.Touch(Gfn(4));
  b_.Touch(Gfn(4));
  EXPECT_TRUE(chain_.TestYoung(Gfn(4)));
  EXPECT_FALSE(chain_.TestYoung(Gfn(5)));
  EXPECT_TRUE(chain_.ClearFlushYoung(Pages(0, 8)));
  EXPECT_FALSE(chain_.ClearFlushYoung(Pages(0, 8)));  // the first call cleared both marks
  c_.Touch(Gfn(9));
  EXPECT_FALSE(chain_.ClearYoung(Pages(0, 8)));
  EXPECT_TRUE(chain_.ClearYoung(Pages(8, 16)));
  EXPECT_FALSE(chain_.TestYoung(Gfn(9)));
}

TEST_F(NotifierChainTest, ReleaseIsCalledOnce) {
  chain_.Release();
  chain_.Release();
  EXPECT_EQ(a_.releases(), 1);
  EXPECT_EQ(c_.releases(), 1);
}

TEST_F(NotifierChainTest, WhoComesAfterTheReleaseIsReleasedAtOnce) {
  chain_.Release();
  RecordingNotifier late;
  Subscription subscription(chain_, &late);
  EXPECT_EQ(late.releases(), 1);
}

// A subscriber whose start waits until it is let go.
class SlowNotifier final : public MmuNotifier {
 public:
  absl::Status InvalidateRangeStart(const Invalidation&) override {
    started.Notify();
    go_on.WaitForNotification();
    return absl::OkStatus();
  }
  void InvalidateRangeEnd(const Invalidation&) override { ended = true; }

  absl::Notification started, go_on;
  std::atomic<bool> ended{false};
};

TEST(NotifierChainConcurrencyTest, UnregisterWaitsForRunningCallbacks) {
  NotifierChain chain;
  SlowNotifier slow;
  chain.Register(&slow);
  std::thread invalidator([&] { ScopedInvalidation invalidation(chain, {.range = Pages(0, 1)}); });
  slow.started.WaitForNotification();
  std::atomic<bool> unregistered{false};
  std::thread leaver([&] {
    chain.Unregister(&slow);
    EXPECT_TRUE(slow.ended);
    unregistered = true;
  });
  for (int i = 0; i < 100; ++i) std::this_thread::yield();
  EXPECT_FALSE(unregistered);
  slow.go_on.Notify();
  invalidator.join();
  leaver.join();
  EXPECT_TRUE(unregistered);
}

// A subscriber registered while an invalidation is under way is not told of it, and so must not start work before it
// has ended.
TEST(NotifierChainConcurrencyTest, RegisterWaitsForInvalidationsTheNewcomerMissed) {
  NotifierChain chain;
  RecordingNotifier newcomer;
  auto invalidation = std::make_unique<ScopedInvalidation>(chain, Invalidation{.range = Pages(0, 1)});
  std::atomic<bool> ended{false};
  std::thread joiner([&] {
    chain.Register(&newcomer);
    EXPECT_TRUE(ended);
  });
  for (int i = 0; i < 100; ++i) std::this_thread::yield();
  ended = true;
  invalidation.reset();
  joiner.join();
  EXPECT_EQ(newcomer.starts(), 0u);
  chain.Unregister(&newcomer);
}

// Subscribers come and go under invalidations that never pause. RecordingNotifier stops the program if it sees an end
// without a start; the destructor of each shows (under asan and tsan) that nobody calls it after Unregister.
TEST(NotifierChainConcurrencyTest, SubscribersComeAndGoUnderFire) {
  NotifierChain chain;
  std::atomic<bool> stop{false};
  std::vector<std::thread> invalidators;
  for (uint64_t t = 0; t < 2; ++t) {
    invalidators.emplace_back([&, t] {
      while (!stop) {
        ScopedInvalidation outer(chain, {.range = Pages(8 * t, 8 * t + 4)});
        ScopedInvalidation inner(chain, {.range = Pages(8 * t + 4, 8 * t + 8)});
        chain.ClearFlushYoung(Pages(8 * t, 8 * t + 8));
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    auto notifier = std::make_unique<RecordingNotifier>();
    chain.Register(notifier.get());
    while (notifier->starts() < 2) std::this_thread::yield();
    chain.Unregister(notifier.get());
    for (uint64_t gfn = 0; gfn < 16; ++gfn) ASSERT_FALSE(notifier->IsInvalidating(Gfn(gfn)));  // starts had their ends
  }
  stop = true;
  for (std::thread& t : invalidators) t.join();
}

using NotifierChainDeathTest = NotifierChainTest;

TEST_F(NotifierChainDeathTest, SubscribersMustLeaveFirst) {
  EXPECT_DEATH(
      {
        NotifierChain chain;
        RecordingNotifier forgotten;
        chain.Register(&forgotten);
      },
      "broken invariant");
}

TEST_F(NotifierChainDeathTest, RegisteringTwiceIsABug) { EXPECT_DEATH(chain_.Register(&a_), "broken invariant"); }

}  // namespace
}  // namespace quire
