#include "mmu/guest_copy.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::ElementsAre;

struct alignas(64) Memory {
  std::array<std::byte, 64> bytes = {};
};

// The sizes of the accesses that a copy of `size` bytes at this offset is made of.
std::vector<size_t> Words(size_t offset, size_t size) {
  const Memory memory;
  std::vector<size_t> sizes;
  size_t end = 0;
  internal::ForEachWord(memory.bytes.data() + offset, size, [&](size_t at, auto word) {
    EXPECT_EQ(at, end);
    sizes.push_back(sizeof word);
    end = at + sizeof word;
  });
  EXPECT_EQ(end, size);
  return sizes;
}

TEST(GuestCopyTest, WordsThatAreAlignedAreAccessedAsSuch) {
  EXPECT_THAT(Words(0, 1), ElementsAre(1));
  EXPECT_THAT(Words(2, 2), ElementsAre(2));
  EXPECT_THAT(Words(4, 4), ElementsAre(4));
  EXPECT_THAT(Words(8, 8), ElementsAre(8));
  EXPECT_THAT(Words(16, 16), ElementsAre(8, 8)) << "a descriptor";
  EXPECT_THAT(Words(4, 8), ElementsAre(4, 4)) << "an element of a used ring";
  EXPECT_THAT(Words(4, 20), ElementsAre(4, 8, 8));
}

TEST(GuestCopyTest, OthersAreAccessedByThePiecesThatAre) {
  EXPECT_THAT(Words(1, 2), ElementsAre(1, 1));
  EXPECT_THAT(Words(3, 13), ElementsAre(1, 4, 8));
  EXPECT_THAT(Words(0, 15), ElementsAre(8, 4, 2, 1));
  EXPECT_THAT(Words(5, 0), ElementsAre());
}

TEST(GuestCopyTest, CopiesWhatItShallAndNothingElse) {
  for (size_t offset = 0; offset < 16; ++offset) {
    for (size_t size = 0; size <= 40; ++size) {
      Memory guest;
      std::vector<std::byte> in(size);
      for (size_t i = 0; i < size; ++i) in[i] = static_cast<std::byte>(i + 1);
      CopyToGuest(guest.bytes.data() + offset, in);
      for (size_t i = 0; i < guest.bytes.size(); ++i) {
        const bool copied = i >= offset && i < offset + size;
        ASSERT_EQ(guest.bytes[i], static_cast<std::byte>(copied ? i - offset + 1 : 0)) << offset << ' ' << size;
      }
      std::vector<std::byte> out(size);
      CopyFromGuest(guest.bytes.data() + offset, absl::MakeSpan(out));
      ASSERT_EQ(out, in) << offset << ' ' << size;
    }
  }
}

}  // namespace
}  // namespace quire
