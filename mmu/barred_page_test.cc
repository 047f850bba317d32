#include "mmu/barred_page.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr PageCount kSize = PageCount(16);

class BarredPageTest : public ::testing::Test {
 protected:
  // Whether the kernel can read the page's first byte.
  bool CanRead(uint64_t page) {
    int fds[2];
    EXPECT_EQ(pipe(fds), 0);
    const UniqueFd from(fds[0]), to(fds[1]);
    return write(to.get(), memory_.data() + page * kPageSize, 1) == 1;
  }

  const Mapping memory_ = *Mapping::Map(kSize.bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  BarredPage barred_{memory_.hva()};
  MonotonicTime now_ = MonotonicTime::FromNanoseconds(1000);
};

TEST_F(BarredPageTest, OnePageIsOutOfReachUntilTheBarIsLifted) {
  EXPECT_EQ(barred_.Lift(), std::nullopt);
  ASSERT_TRUE(barred_.Bar(Gfn(3), now_));
  EXPECT_TRUE(CanRead(2));
  EXPECT_FALSE(CanRead(3));
  EXPECT_TRUE(CanRead(4));
  EXPECT_EQ(barred_.Lift(), Gfn(3));
  EXPECT_TRUE(CanRead(3));
  EXPECT_EQ(barred_.Lift(), std::nullopt);
}

TEST_F(BarredPageTest, AnotherOneHasToWaitUntilNobodyComesForTheFirst) {
  ASSERT_TRUE(barred_.Bar(Gfn(3), now_));
  EXPECT_FALSE(barred_.Bar(Gfn(4), now_ + BarredPage::kPatience / 2));
  EXPECT_FALSE(CanRead(3));
  EXPECT_TRUE(CanRead(4));
  EXPECT_TRUE(barred_.Bar(Gfn(4), now_ + BarredPage::kPatience));
  EXPECT_TRUE(CanRead(3));
  EXPECT_FALSE(CanRead(4));
  EXPECT_EQ(barred_.Lift(), Gfn(4));
}

TEST_F(BarredPageTest, OneThatHasBeenReplacedIsBarredAnew) {
  ASSERT_TRUE(barred_.Bar(Gfn(3), now_));
  ASSERT_EQ(mprotect(memory_.data() + 3 * kPageSize, kPageSize, PROT_READ | PROT_WRITE), 0);
  EXPECT_TRUE(barred_.Bar(Gfn(3), now_));
  EXPECT_FALSE(CanRead(3));
}

TEST_F(BarredPageTest, IsLiftedInTheRangesThatHaveIt) {
  ASSERT_TRUE(barred_.Bar(Gfn(3), now_));
  barred_.LiftIn(GfnRange(Gfn(4), Gfn(9)));
  EXPECT_FALSE(CanRead(3));
  barred_.LiftIn(GfnRange(Gfn(0), Gfn(4)));
  EXPECT_TRUE(CanRead(3));
}

}  // namespace
}  // namespace quire
