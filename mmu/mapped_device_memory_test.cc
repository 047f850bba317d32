#include "mmu/mapped_device_memory.h"

#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/mapping.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

// Four pages at 0 and four at 1 MiB.
class MappedDeviceMemoryTest : public ::testing::Test {
 protected:
  std::byte& At(uint64_t offset) { return mapping_.data()[offset]; }

  Mapping mapping_ =
      Mapping::Map(PageCount(8).bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).value();
  MappedDeviceMemory memory_{absl::MakeSpan(mapping_.data(), mapping_.size().in_bytes()),
                             {{Gpa(0), GfnRange(Gfn(0), Gfn(4))}, {Gpa(0x100000), GfnRange(Gfn(4), Gfn(8))}}};
};

TEST_F(MappedDeviceMemoryTest, ReadsAndWritesWhereTheAddressesAre) {
  const std::array<std::byte, 3> in = {std::byte{1}, std::byte{2}, std::byte{3}};
  ASSERT_EQ(memory_.Write(Gpa(0x100ffe), in), absl::OkStatus());
  EXPECT_EQ(At(0x4ffe), std::byte{1});
  EXPECT_EQ(At(0x5000), std::byte{3});
  std::array<std::byte, 3> out;
  ASSERT_EQ(memory_.Read(Gpa(0x100ffe), absl::MakeSpan(out)), absl::OkStatus());
  EXPECT_EQ(out, in);
}

TEST_F(MappedDeviceMemoryTest, WhatIsNoMemoryIsOutOfRangeAndNothingOfItIsDone) {
  std::array<std::byte, 16> bytes;
  bytes.fill(std::byte{7});
  EXPECT_TRUE(absl::IsOutOfRange(memory_.Write(Gpa(0x3ff8), bytes)));
  EXPECT_EQ(At(0x3ff8), std::byte{0});
  EXPECT_TRUE(absl::IsOutOfRange(memory_.Read(Gpa(0xffff8), absl::MakeSpan(bytes))));
  EXPECT_TRUE(absl::IsOutOfRange(memory_.Wire(Gpa(0), ByteCount::Bytes(0x4001)).status()));
  At(0x3000) = std::byte{5};
  EXPECT_TRUE(absl::IsOutOfRange(memory_.Discard(Gpa(0x3000), PageCount(2))));
  EXPECT_EQ(At(0x3000), std::byte{5});
}

TEST_F(MappedDeviceMemoryTest, ABufferIsTheMemoryItself) {
  const auto buffer = memory_.Wire(Gpa(0x100010), ByteCount::Bytes(0x2000));
  ASSERT_EQ(buffer.status(), absl::OkStatus());
  ASSERT_EQ((*buffer)->pieces().size(), 1u);
  EXPECT_EQ((*buffer)->pieces()[0].data(), &At(0x4010));
  EXPECT_EQ((*buffer)->pieces()[0].size(), 0x2000u);
}

TEST_F(MappedDeviceMemoryTest, DiscardedPagesReadAsZeroAndTheOthersAsBefore) {
  std::memset(mapping_.data(), 9, mapping_.size().in_bytes());
  ASSERT_EQ(memory_.Discard(Gpa(0x1000), PageCount(2)), absl::OkStatus());
  EXPECT_EQ(At(0xfff), std::byte{9});
  EXPECT_EQ(At(0x1000), std::byte{0});
  EXPECT_EQ(At(0x2fff), std::byte{0});
  EXPECT_EQ(At(0x3000), std::byte{9});
  EXPECT_TRUE(absl::IsInvalidArgument(memory_.Discard(Gpa(0x1001), kOnePage)));
}

TEST_F(MappedDeviceMemoryTest, DiscardedPagesThatAreLockedReadAsZeroToo) {
  if (mlock(mapping_.data(), kPageSize) != 0) GTEST_SKIP() << "this host lets nothing be locked";
  std::memset(mapping_.data(), 9, 2 * kPageSize);
  ASSERT_EQ(memory_.Discard(Gpa(0), PageCount(2)), absl::OkStatus());
  EXPECT_EQ(At(0), std::byte{0});
  EXPECT_EQ(At(kPageSize), std::byte{0});
}

}  // namespace
}  // namespace quire
