#include "guest/swap/keg.h"

#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/counters.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/frames/pool.h"
#include "guest/frames/reserve.h"
#include "guest/swap/slab_table.h"

namespace quire {
namespace {

class KegTest : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_EQ(keg_.Check(), absl::OkStatus()); }

  // An object whose owner and content are `owner`.
  SlabObject Put(uint32_t owner) {
    const SlabObject object = keg_.Allocate().value();
    Keg::Pin(keg_, slabs_[object.slab], object.index).Write(owner, Content(owner));
    return object;
  }
  std::vector<SlabObject> PutMany(uint32_t count) {
    std::vector<SlabObject> objects;
    for (uint32_t owner = 0; owner < count; ++owner) objects.push_back(Put(owner));
    return objects;
  }
  static std::vector<std::byte> Content(uint32_t owner) {
    return std::vector<std::byte>(1000, static_cast<std::byte>(owner));
  }
  bool IsIntact(SlabObject object, uint32_t owner) {
    std::byte buffer[kPageSize];
    const Keg::Pin pin(keg_, slabs_[object.slab], object.index);
    return std::memcmp(pin.Read(1000, buffer), Content(owner).data(), 1000) == 0;
  }
  PageCount frames() const { return keg_.statistics().frames; }
  std::vector<FrameNumber> TakeAllMemory() {
    std::vector<FrameNumber> taken;
    for (;;) {
      const absl::StatusOr<FrameNumber> frame = pool_->arena().Allocate(0, Reserve::kReclaim);
      if (!frame.ok()) return taken;
      taken.push_back(*frame);
    }
  }
  void GiveBack(const std::vector<FrameNumber>& taken) {
    for (const FrameNumber frame : taken) pool_->arena().Free(frame, 0);
  }

  std::unique_ptr<Pool> pool_ =
      Pool::Create({.limit = PageCount::OfBlocks(8), .reservations = {}, .use_memfd = true}).value();
  SlabTable slabs_{*pool_};
  Gauge held_;
  // 4 in a frame, with 64 bytes to spare: 65 in 16 frames.
  Keg keg_{*pool_, slabs_, held_, /*number=*/3, /*object_bytes=*/1008};
};

TEST_F(KegTest, ASlabHasTheFramesThatItsObjectsReach) {
  std::vector<SlabObject> objects;
  for (uint32_t i = 1; i <= 20; ++i) {
    objects.push_back(Put(i));
    EXPECT_EQ(objects.back().slab, objects.front().slab);
    EXPECT_EQ(frames(), PageCount((i * 1008 + kPageSize - 1) / kPageSize)) << i;
  }
  // A hole wins nothing, the end does.
  keg_.Free(objects[3]);
  EXPECT_EQ(frames(), PageCount(5));
  for (uint32_t i = 20; i-- > 4;) keg_.Free(objects[i]);
  EXPECT_EQ(frames(), PageCount(1));
  for (uint32_t i = 3; i-- > 0;) keg_.Free(objects[i]);
  EXPECT_EQ(frames(), PageCount());
  EXPECT_EQ(held_.value(), 0u);
}

TEST_F(KegTest, HolesAreFilledBeforeFramesAreTaken) {
  const std::vector<SlabObject> objects = PutMany(100);
  const PageCount before = frames();
  for (uint32_t i = 0; i < 60; i += 3) keg_.Free(objects[i]);
  for (uint32_t i = 0; i < 60; i += 3) Put(i);
  EXPECT_EQ(frames(), before);
  EXPECT_EQ(keg_.reclaimable(), PageCount());
  for (const SlabObject& object : objects) keg_.Free(object);
}

TEST_F(KegTest, TheStatisticsAreThoseOfAZone) {
  const SlabObject object = Put(1);
  const Keg::Statistics s = keg_.statistics();
  EXPECT_EQ(s.used, 1u);
  EXPECT_EQ(s.free, 3u);
  EXPECT_EQ(s.requests, 1u);
  EXPECT_EQ(s.failures, 0u);
  EXPECT_EQ(s.slabs, 1u);
  EXPECT_EQ(s.frames, kOnePage);
  keg_.Free(object);
}

TEST_F(KegTest, WithoutMemoryItFailsAndAHoleIsEnough) {
  std::vector<SlabObject> objects = PutMany(8);  // the ninth lies in the same frame as the eighth, and the next one
  const std::vector<FrameNumber> taken = TakeAllMemory();
  EXPECT_EQ(keg_.Allocate().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(keg_.statistics().failures, 1u);
  keg_.Free(objects[2]);
  objects[2] = Put(2);
  GiveBack(taken);
  for (uint32_t i = 0; i < 8; ++i) {
    EXPECT_TRUE(IsIntact(objects[i], i));
    keg_.Free(objects[i]);
  }
}

TEST_F(KegTest, FreeingTwiceStopsTheProgram) {
  // The pool is not mapped in a forked child.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const SlabObject a = Put(1);
  const SlabObject b = Put(2);
  keg_.Free(a);
  EXPECT_DEATH(keg_.Free(a), "broken invariant");
  keg_.Free(b);
  EXPECT_DEATH(keg_.Free(b), "broken invariant");
}

// Empties slabs until nothing is to be won, as the store does. `objects`: by owner; freed ones are not live.
class KegDrainTest : public KegTest {
 protected:
  void SetUp() override {
    objects_ = PutMany(650);  // ten slabs
    live_.assign(650, true);
  }
  void TearDown() override {
    for (uint32_t i = 0; i < 650; ++i) {
      if (!live_[i]) continue;
      EXPECT_TRUE(IsIntact(objects_[i], i)) << i;
      keg_.Free(objects_[i]);
    }
    EXPECT_EQ(held_.value(), 0u);
    KegTest::TearDown();
  }
  void Free(uint32_t i) {
    keg_.Free(objects_[i]);
    live_[i] = false;
  }
  bool DrainOne() {
    Keg::Drain drain;
    if (!keg_.BeginDrain(drain)) return false;
    for (const Keg::Owned& owned : drain.objects) {
      EXPECT_EQ(objects_[owned.owner].slab, owned.object.slab);
      EXPECT_EQ(objects_[owned.owner].index, owned.object.index);
      if (const auto to = keg_.Relocate(owned.object, owned.owner)) objects_[owned.owner] = *to;
    }
    keg_.EndDrain(drain);
    EXPECT_EQ(keg_.Check(), absl::OkStatus());
    return true;
  }

  std::vector<SlabObject> objects_;
  std::vector<bool> live_;
};

TEST_F(KegDrainTest, FullSlabsAreLeftAlone) {
  EXPECT_EQ(keg_.reclaimable(), PageCount());
  EXPECT_FALSE(DrainOne());
}

TEST_F(KegDrainTest, SlabsAreEmptiedUntilAllButOneAreFullAndThatOneHasNoHoles) {
  for (uint32_t i = 0; i < 650; ++i) {
    if (i % 3 != 0) Free(i);
  }
  const PageCount reclaimable = keg_.reclaimable();
  EXPECT_GT(reclaimable, PageCount(100));
  const PageCount before = frames();
  while (DrainOne()) {
  }
  EXPECT_EQ(frames(), before - reclaimable);
  EXPECT_EQ(keg_.statistics().slabs, 4u);  // for 217 objects
  EXPECT_LE(keg_.statistics().free, 4u) << "more than a frame's worth";
}

TEST_F(KegDrainTest, HolesAreFilledWithoutAFreeFrame) {
  for (uint32_t i = 0; i < 650; ++i) {
    if (i % 65 < 60 && i % 2 == 0) Free(i);
  }
  const std::vector<FrameNumber> taken = TakeAllMemory();
  const PageCount before = frames();
  while (DrainOne() && keg_.reclaimable() > PageCount()) {
  }
  EXPECT_LT(frames(), before);
  EXPECT_EQ(keg_.reclaimable(), PageCount());
  GiveBack(taken);
}

TEST_F(KegDrainTest, WhatIsFreedOrStaysWhileASlabIsEmptiedIsInOrder) {
  for (uint32_t i = 0; i < 650; ++i) {
    if (i % 3 != 0) Free(i);
  }
  Keg::Drain drain;
  ASSERT_TRUE(keg_.BeginDrain(drain));
  Free(drain.objects[0].owner);  // its owner was quicker
  Free(drain.objects[1].owner);
  const SlabObject newcomer = Put(1);
  EXPECT_NE(newcomer.slab, drain.slab) << "it takes no new objects";
  keg_.Free(newcomer);
  keg_.EndDrain(drain);
  EXPECT_EQ(keg_.Check(), absl::OkStatus());
  ASSERT_TRUE(keg_.BeginDrain(drain));
  for (const Keg::Owned& owned : drain.objects) Free(owned.owner);
  keg_.EndDrain(drain);
}

}  // namespace
}  // namespace quire
