#include "base/mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

absl::StatusOr<Mapping> MapAnonymous(ByteCount size) {
  return Mapping::Map(size, PROT_READ | PROT_WRITE, kAnonymous, -1, 0);
}

// mincore fails with ENOMEM on addresses that are not mapped.
bool IsMapped(const std::byte* page) {
  unsigned char resident;
  return mincore(const_cast<std::byte*>(page), kPageSize, &resident) == 0;
}

TEST(MappingTest, MapsAndUnmaps) {
  std::byte* page;
  {
    absl::StatusOr<Mapping> mapping = MapAnonymous(ByteCount::KiB(8));
    ASSERT_TRUE(mapping.ok()) << mapping.status();
    EXPECT_EQ(mapping->size(), ByteCount::KiB(8));
    page = mapping->data();
    page[kPageSize] = std::byte{1};
    EXPECT_TRUE(IsMapped(page));
  }
  EXPECT_FALSE(IsMapped(page));
}

TEST(MappingTest, MovingPassesOwnership) {
  Mapping a = *MapAnonymous(ByteCount::KiB(4));
  std::byte* const page = a.data();
  Mapping b(std::move(a));
  EXPECT_FALSE(a.valid());  // NOLINT: reading the moved-from object is the point
  EXPECT_EQ(b.data(), page);
  EXPECT_TRUE(IsMapped(page));
  b = Mapping();
  EXPECT_FALSE(IsMapped(page));
}

TEST(MappingTest, ErrorSaysWhatWasAttempted) {
  const absl::StatusOr<Mapping> mapping = Mapping::Map(ByteCount::KiB(4), PROT_READ, MAP_PRIVATE, -1, 0);
  ASSERT_FALSE(mapping.ok());
  EXPECT_NE(mapping.status().message().find("4096 bytes"), absl::string_view::npos) << mapping.status();
}

TEST(MappingTest, AlignedMappingIsAlignedAndExact) {
  for (int i = 0; i < 8; ++i) {
    absl::StatusOr<Mapping> pad = MapAnonymous(ByteCount::KiB(4));  // so that the next one is rarely aligned by chance
    absl::StatusOr<Mapping> mapping =
        Mapping::MapAligned(ByteCount::MiB(4), ByteCount::MiB(2), PROT_READ | PROT_WRITE, kAnonymous, -1, 0);
    ASSERT_TRUE(mapping.ok()) << mapping.status();
    EXPECT_EQ(mapping->hva().value() % kBlockSize, 0u);
    EXPECT_EQ(mapping->size(), ByteCount::MiB(4));
    mapping->data()[0] = std::byte{1};
    mapping->data()[ByteCount::MiB(4).in_bytes() - 1] = std::byte{1};
  }
}

TEST(MappingTest, AlignedMappingThatFailsLeavesNothing) {
  const absl::StatusOr<Mapping> mapping =
      Mapping::MapAligned(ByteCount::MiB(4), ByteCount::MiB(2), PROT_READ, MAP_PRIVATE, -1, 0);
  EXPECT_FALSE(mapping.ok());
}

}  // namespace
}  // namespace quire
