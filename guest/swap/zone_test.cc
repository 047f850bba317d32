#include "guest/swap/zone.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/counters.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/frames/pool.h"
#include "guest/frames/reserve.h"
#include "guest/swap/keg.h"
#include "guest/swap/slab_table.h"

namespace quire {
namespace {

thread_local int cpu = 0;

class ZoneTest : public ::testing::Test {
 protected:
  void SetUp() override {
    cpu = 0;
    Make({});
  }
  void TearDown() override {
    zone_->Drain();
    EXPECT_EQ(zone_->statistics().used, 0u);
    EXPECT_EQ(held_.value(), 0u);
    EXPECT_EQ(zone_->keg().Check(), absl::OkStatus());
  }
  void Make(ZoneOptions options) {
    options.name = "test";
    options.object_bytes = 1024;
    options.buckets = 2;
    options.current_cpu = [] { return cpu; };
    zone_ = std::make_unique<Zone>(*pool_, slabs_, held_, /*number=*/0, options);
  }
  std::vector<SlabObject> AllocateMany(int count) {
    std::vector<SlabObject> objects;
    for (int i = 0; i < count; ++i) objects.push_back(zone_->Allocate().value());
    return objects;
  }
  void FreeAll(const std::vector<SlabObject>& objects) {
    for (const SlabObject& object : objects) zone_->Free(object);
  }

  std::unique_ptr<Pool> pool_ =
      Pool::Create({.limit = PageCount::OfBlocks(8), .reservations = {}, .use_memfd = true}).value();
  SlabTable slabs_{*pool_};
  Gauge held_;
  std::unique_ptr<Zone> zone_;
};

TEST_F(ZoneTest, AFreedObjectIsTheNextAllocatedOnTheSameCpu) {
  const std::vector<SlabObject> objects = AllocateMany(3);
  zone_->Free(objects[0]);
  cpu = 1;
  const SlabObject other = zone_->Allocate().value();
  EXPECT_NE(other.index, objects[0].index) << "it lies in another CPU's bucket";
  cpu = 0;
  EXPECT_EQ(zone_->Allocate()->index, objects[0].index);
  FreeAll(objects);
  zone_->Free(other);
}

TEST_F(ZoneTest, WhatLiesInBucketsIsFreeAndGoesBackWhenAskedFor) {
  FreeAll(AllocateMany(20));
  ZoneStatistics s = zone_->statistics();
  EXPECT_EQ(s.used, 0u);
  EXPECT_EQ(s.requests, 20u);
  EXPECT_GT(s.free, 0u);
  EXPECT_EQ(zone_->keg().statistics().used, 6u) << "it is full";
  zone_->Drain();
  s = zone_->statistics();
  EXPECT_EQ(s.free, 0u);
  EXPECT_EQ(s.frames, PageCount());
}

TEST_F(ZoneTest, WithoutMemoryOtherCpusBucketsAreEnough) {
  std::vector<SlabObject> objects = AllocateMany(4);  // a frame
  std::vector<FrameNumber> taken;
  for (;;) {
    const absl::StatusOr<FrameNumber> frame = pool_->arena().Allocate(0, Reserve::kReclaim);
    if (!frame.ok()) break;
    taken.push_back(*frame);
  }
  zone_->Free(objects.back());
  cpu = 1;
  const absl::StatusOr<SlabObject> object = zone_->Allocate();
  ASSERT_TRUE(object.ok()) << object.status();
  objects.back() = *object;
  EXPECT_EQ(zone_->statistics().failures, 0u);
  EXPECT_EQ(zone_->Allocate().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(zone_->statistics().failures, 1u);
  FreeAll(objects);
  for (const FrameNumber frame : taken) pool_->arena().Free(frame, 0);
}

TEST_F(ZoneTest, ALimitIsOfObjectsInUse) {
  Make({.limit = 3});
  const std::vector<SlabObject> objects = AllocateMany(3);
  EXPECT_EQ(zone_->Allocate().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(zone_->Allocate().status().code(), absl::StatusCode::kResourceExhausted);
  zone_->Free(objects[1]);
  zone_->Free(zone_->Allocate().value());
  const ZoneStatistics s = zone_->statistics();
  EXPECT_EQ(s.limit, 3u);
  EXPECT_EQ(s.used, 2u);
  EXPECT_EQ(s.requests, 6u);
  EXPECT_EQ(s.failures, 2u);
  zone_->Free(objects[0]);
  zone_->Free(objects[2]);
}

TEST_F(ZoneTest, AConstructorMayFail) {
  bool fails = true;
  Make({.limit = 1, .construct = [&](SlabObject object) {
          const std::vector<std::byte> content(100, std::byte{7});
          Keg::Pin(zone_->keg(), slabs_[object.slab], object.index).Write(Keg::kNoOwner, content);
          return fails ? absl::InternalError("it is broken") : absl::OkStatus();
        }});
  const absl::Status status = zone_->Allocate().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(std::string(status.message()), "zone test: constructing an object: it is broken");
  EXPECT_EQ(zone_->statistics().failures, 1u);
  EXPECT_EQ(zone_->statistics().used, 0u);
  fails = false;
  const SlabObject object = zone_->Allocate().value();  // the failure counted for nothing against the limit
  {
    std::byte buffer[100];
    const Keg::Pin pin(zone_->keg(), slabs_[object.slab], object.index);
    EXPECT_EQ(pin.Read(100, buffer)[99], std::byte{7});
  }
  zone_->Free(object);
}

TEST_F(ZoneTest, BucketsStayEmptyWhileTheyAreBypassed) {
  const std::vector<SlabObject> objects = AllocateMany(8);
  zone_->Free(objects[0]);
  {
    const Zone::Bypass bypass(*zone_);
    EXPECT_EQ(zone_->keg().statistics().used, 7u);
    zone_->Free(objects[1]);
    EXPECT_EQ(zone_->keg().statistics().used, 6u);
  }
  zone_->Free(objects[2]);
  EXPECT_EQ(zone_->keg().statistics().used, 6u);
  for (size_t i = 3; i < 8; ++i) zone_->Free(objects[i]);
}

TEST_F(ZoneTest, ThreadsShareAZoneWhileItIsDrained) {
  std::vector<std::thread> threads;
  std::atomic<int> running = 3;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      cpu = t;
      for (int i = 0; i < 2'000; ++i) FreeAll(AllocateMany(1 + i % 7));
      --running;
    });
  }
  while (running > 0) {
    zone_->Drain();
    const Zone::Bypass bypass(*zone_);
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace quire
