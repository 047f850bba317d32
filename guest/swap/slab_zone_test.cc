#include "guest/swap/slab_zone.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "guest/frames/compaction.h"
#include "guest/swap/keg.h"

namespace quire {
namespace {

class SlabZoneTest : public ::testing::Test {
 protected:
  struct Object {
    SlabObject object;
    uint32_t bytes;
    uint8_t fill;
  };

  void TearDown() override { EXPECT_EQ(zone_.Check(), absl::OkStatus()); }

  Object Allocate(uint32_t bytes, uint8_t fill) {
    const Object o = {zone_.Allocate(bytes).value(), bytes, fill};
    Fill(o);
    return o;
  }
  void Fill(const Object& o) {
    zone_.Write(o.object, Keg::kNoOwner, std::vector<std::byte>(o.bytes, std::byte{o.fill}));
  }
  // With nothing in buckets.
  PageCount Held() {
    zone_.Drain();
    return zone_.held();
  }
  // Whether the object still has the bytes it was given: nobody else was given any of them.
  bool IsIntact(const Object& o) const {
    std::byte buffer[SlabZone::kMaxObject];
    const SlabZone::Pin pin(zone_, o.object);
    const std::byte* const bytes = zone_.Read(pin, o.bytes, buffer);
    return bytes[0] == std::byte{o.fill} && std::memcmp(bytes, bytes + 1, o.bytes - 1) == 0;
  }
  void FreeAll(const std::vector<Object>& objects) {
    for (const Object& o : objects) zone_.Free(o.object);
  }

  std::unique_ptr<Pool> pool_ =
      Pool::Create({.limit = PageCount::OfBlocks(8), .reservations = {}, .use_memfd = true}).value();
  SlabZone zone_{*pool_};
};

TEST_F(SlabZoneTest, ObjectsOfEverySizeHaveBytesOfTheirOwn) {
  std::vector<Object> objects;
  for (uint32_t most = 64; most <= SlabZone::kMaxObject; most += 64) {
    for (const uint32_t bytes : {most - 63, most - 1, most}) {
      objects.push_back(Allocate(bytes, static_cast<uint8_t>(objects.size())));
    }
  }
  for (const Object& o : objects) ASSERT_TRUE(IsIntact(o)) << o.bytes;
  EXPECT_EQ(zone_.Check(), absl::OkStatus());
  FreeAll(objects);
}

TEST_F(SlabZoneTest, RandomUseKeepsEveryObjectIntact) {
  std::mt19937 random(1);
  std::vector<Object> objects;
  for (int i = 0; i < 20'000; ++i) {
    // Grows and shrinks in waves, so that slabs of all sizes come and go.
    const bool grow = random() % 100 < (i / 2'000 % 2 == 0 ? 70 : 30);
    if (grow || objects.empty()) {
      objects.push_back(Allocate(1 + random() % SlabZone::kMaxObject, static_cast<uint8_t>(random())));
    } else {
      std::swap(objects[random() % objects.size()], objects.back());
      ASSERT_TRUE(IsIntact(objects.back())) << i;
      zone_.Free(objects.back().object);
      objects.pop_back();
    }
    if (i % 1'000 != 0) continue;
    ASSERT_EQ(zone_.Check(), absl::OkStatus());
    ASSERT_GE(Held().bytes(), zone_.in_objects());
  }
  for (const Object& o : objects) ASSERT_TRUE(IsIntact(o));
  FreeAll(objects);
  EXPECT_EQ(Held(), PageCount());
  EXPECT_EQ(zone_.in_objects(), ByteCount());
  EXPECT_EQ(pool_->Check(), absl::OkStatus());
}

TEST_F(SlabZoneTest, FullSlabsWasteLittleWhateverTheSize) {
  for (uint32_t bytes = 64; bytes <= SlabZone::kMaxObject; bytes += 64) {
    std::vector<Object> objects;
    for (int i = 0; i < 512; ++i) objects.push_back(Allocate(bytes, 1));
    // One slab, 32 KiB at most, is partly filled; the ends of full slabs are a share of the rest.
    const double held = static_cast<double>(Held().in_bytes());
    EXPECT_LE(held, 1.12 * 512 * bytes + 32 * 1024) << bytes;
    FreeAll(objects);
    ASSERT_EQ(Held(), PageCount()) << bytes;
  }
}

TEST_F(SlabZoneTest, FramesComeFromTheArenaAndAreTyped) {
  const Object o = Allocate(2000, 7);
  EXPECT_GT(Held(), PageCount());
  EXPECT_EQ(pool_->budget().charged(), kOneBlock + zone_.slabs().frames);
  PageCount typed;
  for (FrameNumber frame; frame < pool_->arena().range().end(); ++frame) {
    const FrameDescriptor d = pool_->arena().frames().Get(frame);
    if (d.is(FrameKind::kZone)) typed += PageCount::OfOrder(d.order());
  }
  EXPECT_EQ(typed, Held());
  zone_.Free(o.object);
}

TEST_F(SlabZoneTest, WithoutMemoryItReportsAnErrorAndKeepsWhatItHas) {
  std::vector<Object> objects;
  for (;;) {
    const absl::StatusOr<SlabObject> object = zone_.Allocate(3000);
    if (!object.ok()) break;
    objects.push_back({*object, 3000, static_cast<uint8_t>(objects.size())});
    Fill(objects.back());
  }
  EXPECT_EQ(pool_->FreeFrames(), PageCount());
  EXPECT_EQ(zone_.Check(), absl::OkStatus());
  for (const Object& o : objects) ASSERT_TRUE(IsIntact(o));
  // One object's place is enough for another.
  zone_.Free(objects.back().object);
  objects.back() = Allocate(3000, 9);
  FreeAll(objects);
  EXPECT_EQ(Held(), PageCount());
}

// What reclaim leaves in an arena that serves guests' pages.
TEST_F(SlabZoneTest, SingleFreeFramesAreEnough) {
  std::vector<FrameNumber> taken;
  for (;;) {
    const absl::StatusOr<FrameNumber> frame = pool_->arena().Allocate(0, Reserve::kReclaim);
    if (!frame.ok()) break;
    taken.push_back(*frame);
  }
  const auto is_odd = [](FrameNumber frame) { return frame.value() % 2 == 1; };
  for (const FrameNumber frame : taken) {
    if (is_odd(frame)) pool_->arena().Free(frame, 0);
  }
  taken.erase(std::remove_if(taken.begin(), taken.end(), is_odd), taken.end());
  EXPECT_FALSE(pool_->arena().Allocate(1, Reserve::kReclaim).ok());

  std::vector<Object> objects;
  for (uint32_t i = 0; i < 2'500; ++i) objects.push_back(Allocate(2'700 + i % 64, static_cast<uint8_t>(i)));
  EXPECT_LT(Held(), PageCount(2'500 * 3 / 4));  // three in two frames, and some that are partly filled
  for (const Object& o : objects) ASSERT_TRUE(IsIntact(o));
  FreeAll(objects);
  for (const FrameNumber frame : taken) pool_->arena().Free(frame, 0);
}

TEST_F(SlabZoneTest, ThreadsShareTheZone) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      std::mt19937 random(t);
      std::vector<Object> objects;
      for (int i = 0; i < 5'000; ++i) {
        if (objects.size() < 200 && random() % 2 == 0) {
          // Few classes, so that threads meet in them.
          objects.push_back(Allocate(1000 + 64 * (random() % 4), static_cast<uint8_t>(t * 50 + random() % 50)));
        } else if (!objects.empty()) {
          ASSERT_TRUE(IsIntact(objects.back()));
          zone_.Free(objects.back().object);
          objects.pop_back();
        }
      }
      FreeAll(objects);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Held(), PageCount());
}

class SlabZoneMigrationTest : public SlabZoneTest {
 protected:
  using Answer = FrameMigrator::Answer;

  std::vector<FrameNumber> Frames() {
    std::vector<FrameNumber> frames;
    for (FrameNumber frame; frame < pool_->arena().range().end(); ++frame) {
      if (pool_->arena().frames().Get(frame).is(FrameKind::kZone)) frames.push_back(frame);
    }
    return frames;
  }
  FrameNumber Spare() { return pool_->arena().Allocate(0, Reserve::kReclaim).value(); }
  FrameDescriptor OwnerOf(FrameNumber frame) { return pool_->arena().frames().Get(frame); }
  // Moves a frame of the zone to any other.
  Answer Move(FrameNumber from) {
    const FrameNumber to = Spare();
    const Answer answer = zone_.Migrate(from, OwnerOf(from), to);
    if (answer != Answer::kMoved) pool_->FreeFrame(to);
    return answer;
  }
};

TEST_F(SlabZoneMigrationTest, ObjectsSurviveTheMoveOfEachFrame) {
  std::vector<Object> objects;
  for (uint32_t i = 0; i < 500; ++i) objects.push_back(Allocate(64 + i * 7 % 3'600, static_cast<uint8_t>(i)));
  const std::vector<FrameNumber> before = Frames();
  for (const FrameNumber from : before) {
    const FrameDescriptor owner = OwnerOf(from);
    const FrameNumber to = Spare();
    ASSERT_EQ(zone_.Migrate(from, owner, to), Answer::kMoved);
    EXPECT_EQ(OwnerOf(to), owner);
    EXPECT_FALSE(OwnerOf(from).is(FrameKind::kZone));
  }
  EXPECT_EQ(Frames().size(), before.size());
  for (const Object& o : objects) ASSERT_TRUE(IsIntact(o)) << o.bytes;
  // Free objects' links have moved along.
  for (size_t i = 0; i < objects.size(); i += 2) zone_.Free(objects[i].object);
  for (const FrameNumber from : Frames()) ASSERT_EQ(Move(from), Answer::kMoved);
  for (size_t i = 0; i < objects.size(); i += 2) objects[i] = Allocate(objects[i].bytes, objects[i].fill);
  for (const Object& o : objects) ASSERT_TRUE(IsIntact(o)) << o.bytes;
  FreeAll(objects);
}

TEST_F(SlabZoneMigrationTest, APinnedSlabStaysWhereItIs) {
  const Object o = Allocate(1'000, 1);
  const FrameNumber frame = Frames().front();
  {
    const SlabZone::Pin pin(zone_, o.object);
    const SlabZone::Pin another(zone_, o.object);
    EXPECT_EQ(Move(frame), Answer::kBusy);
  }
  EXPECT_EQ(Move(frame), Answer::kMoved);
  EXPECT_TRUE(IsIntact(o));
  FreeAll({o});
}

TEST_F(SlabZoneMigrationTest, ADescriptorThatIsOutOfDateIsRefused) {
  const Object o = Allocate(1'000, 1);
  const FrameNumber frame = Frames().front();
  const FrameDescriptor owner = OwnerOf(frame);
  FreeAll({o});
  zone_.Drain();
  const FrameNumber to = Spare();
  EXPECT_EQ(zone_.Migrate(frame, owner, to), Answer::kBusy);
  pool_->FreeFrame(to);
}

TEST_F(SlabZoneMigrationTest, FramesMoveWhileThreadsReadAndWrite) {
  std::atomic<bool> done = false;
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      std::vector<Object> objects;
      while (!done) {
        if (objects.size() < 100) {
          objects.push_back(Allocate(900 + 64 * (random() % 4), static_cast<uint8_t>(random())));
        }
        ASSERT_TRUE(IsIntact(objects[random() % objects.size()]));
        if (random() % 4 != 0) continue;
        std::swap(objects[random() % objects.size()], objects.back());
        zone_.Free(objects.back().object);
        objects.pop_back();
      }
      FreeAll(objects);
    });
  }
  for (int moved = 0; moved < 10'000;) {
    for (const FrameNumber from : Frames()) {
      const FrameDescriptor owner = OwnerOf(from);
      if (!owner.is(FrameKind::kZone)) continue;
      const FrameNumber to = Spare();
      if (zone_.Migrate(from, owner, to) == Answer::kMoved) {
        ++moved;
      } else {
        pool_->FreeFrame(to);
      }
    }
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Held(), PageCount());
}

}  // namespace
}  // namespace quire
