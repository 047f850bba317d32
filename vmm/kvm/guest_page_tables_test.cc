#include "vmm/kvm/guest_page_tables.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/kvm/test_page_walk.h"

namespace quire {
namespace {

constexpr Gpa kTables{0x40000000};

class Tables {
 public:
  explicit Tables(const std::vector<GuestMapping>& mappings) : memory_(CountPageTables(mappings).in_bytes()) {
    WritePageTables(mappings, kTables, absl::MakeSpan(memory_));
  }
  PageCount size() const { return PageCount(memory_.size() / kPageSize); }
  std::optional<WalkResult> Walk(uint64_t address) const { return WalkPageTables(memory_, kTables, Gva(address)); }

 private:
  std::vector<std::byte> memory_;
};

TEST(GuestPageTables, NothingMappedNeedsOnlyTheRoot) {
  const Tables tables({});
  EXPECT_EQ(tables.size(), PageCount(1));
  EXPECT_FALSE(tables.Walk(0));
}

TEST(GuestPageTables, OnePageNeedsATableOfEachLevel) {
  const Tables tables({{.address = Gva(0x7000), .gpa = Gpa(0x123000), .size = kOnePage.bytes(), .writable = true}});
  EXPECT_EQ(tables.size(), PageCount(4));
  EXPECT_FALSE(tables.Walk(0x6fff));
  EXPECT_FALSE(tables.Walk(0x8000));
  const std::optional<WalkResult> walk = tables.Walk(0x7abc);
  ASSERT_TRUE(walk);
  EXPECT_EQ(walk->gpa, Gpa(0x123abc));
  EXPECT_FALSE(walk->large);
  EXPECT_TRUE(walk->writable);
  EXPECT_TRUE(walk->user);
  EXPECT_FALSE(walk->executable);
}

TEST(GuestPageTables, RightsAreThoseOfTheMapping) {
  const Tables tables({{.address = Gva(0x1000), .gpa = Gpa(0), .size = kOnePage.bytes(), .executable = true},
                       {.address = Gva(0x2000), .gpa = Gpa(0), .size = kOnePage.bytes(), .user = false}});
  EXPECT_TRUE(tables.Walk(0x1000)->executable);
  EXPECT_FALSE(tables.Walk(0x1000)->writable);
  EXPECT_FALSE(tables.Walk(0x2000)->executable);
  EXPECT_FALSE(tables.Walk(0x2000)->user);
}

TEST(GuestPageTables, WholeBlocksAreLargePagesAndTheTailIsSmallOnes) {
  const ByteCount size = ByteCount::Bytes(2 * kBlockSize + 3 * kPageSize);
  const Tables tables({{.address = Gva(1ull << 36), .gpa = Gpa(0), .size = size, .writable = true}});
  EXPECT_EQ(tables.size(), PageCount(4));
  EXPECT_TRUE(tables.Walk((1ull << 36) + kBlockSize + 5)->large);
  EXPECT_EQ(tables.Walk((1ull << 36) + kBlockSize + 5)->gpa, Gpa(kBlockSize + 5));
  EXPECT_FALSE(tables.Walk((1ull << 36) + 2 * kBlockSize)->large);
  EXPECT_TRUE(tables.Walk((1ull << 36) + size.in_bytes() - 1));
  EXPECT_FALSE(tables.Walk((1ull << 36) + size.in_bytes()));
}

TEST(GuestPageTables, MisalignedBlocksAreSmallPages) {
  const Tables tables({{.address = Gva(kBlockSize), .gpa = Gpa(kPageSize), .size = ByteCount::Bytes(2 * kBlockSize)}});
  EXPECT_EQ(tables.size(), PageCount(5));
  EXPECT_FALSE(tables.Walk(kBlockSize)->large);
  EXPECT_EQ(tables.Walk(3 * kBlockSize - 1)->gpa, Gpa(2 * kBlockSize + kPageSize - 1));
}

TEST(GuestPageTables, EntriesAreMarkedAccessedAndDirtyBeforehand) {
  const Tables tables({{.address = Gva(kPageSize), .gpa = Gpa(0), .size = ByteCount::Bytes(kBlockSize)}});
  const std::optional<WalkResult> walk = tables.Walk(kPageSize);
  EXPECT_TRUE(walk->accessed_at_every_level);
  EXPECT_TRUE(walk->dirty);
}

// Random mappings, near each other and far apart, against their description.
TEST(GuestPageTables, AgreesWithTheMappings) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<GuestMapping> mappings;
    uint64_t address = random() % 4 * kPageSize;
    for (int i = 0; i < 6; ++i) {
      constexpr uint64_t kGaps[] = {0, kPageSize, kBlockSize, uint64_t{1} << 30, uint64_t{1} << 39};
      address += kGaps[random() % std::size(kGaps)];
      if (random() % 2) address = address / kBlockSize * kBlockSize + kBlockSize;
      const uint64_t size = (random() % 2 ? random() % 8 + 1 : random() % 1200 + 1) * kPageSize;
      const uint64_t gpa = random() % 1000 * (random() % 2 ? kPageSize : kBlockSize);
      mappings.push_back({.address = Gva(address),
                          .gpa = Gpa(gpa),
                          .size = ByteCount::Bytes(size),
                          .writable = random() % 2 == 0,
                          .executable = random() % 2 == 0,
                          .user = random() % 2 == 0});
      address += size;
    }
    const Tables tables(mappings);
    uint64_t end = 0;
    for (const GuestMapping& mapping : mappings) {
      const uint64_t begin = mapping.address.value();
      ASSERT_TRUE(begin == end || !tables.Walk(begin - 1));
      end = begin + mapping.size.in_bytes();
      for (uint64_t at = begin; at < end; at += kPageSize) {
        const std::optional<WalkResult> walk = tables.Walk(at);
        ASSERT_TRUE(walk) << at;
        ASSERT_EQ(walk->gpa, mapping.gpa + ByteCount::Bytes(at - begin));
        ASSERT_EQ(walk->writable, mapping.writable);
        ASSERT_EQ(walk->executable, mapping.executable);
        ASSERT_EQ(walk->user, mapping.user);
      }
    }
    EXPECT_FALSE(tables.Walk(end));
  }
}

}  // namespace
}  // namespace quire
