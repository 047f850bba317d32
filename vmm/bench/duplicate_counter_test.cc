#include "vmm/bench/duplicate_counter.h"

#include <array>

#include "gtest/gtest.h"

namespace quire {
namespace {

using Page = std::array<std::byte, kPageSize>;

TEST(DuplicateCounterTest, AllPagesOfAContentButOneAreDuplicates) {
  DuplicateCounter counter;
  EXPECT_EQ(counter.duplicates(), PageCount());
  Page page = {};
  for (int i = 0; i < 5; ++i) counter.Add(page.data());
  EXPECT_EQ(counter.duplicates(), PageCount(4)) << "zeros";
  for (const size_t different : {size_t{0}, kPageSize / 2, kPageSize - 1}) {
    page = {};
    page[different] = std::byte{1};
    counter.Add(page.data());
  }
  EXPECT_EQ(counter.duplicates(), PageCount(4)) << "one byte is enough of a difference, wherever it is";
  counter.Add(page.data());
  EXPECT_EQ(counter.duplicates(), PageCount(5));
  EXPECT_EQ(counter.pages(), PageCount(9));
}

}  // namespace
}  // namespace quire
