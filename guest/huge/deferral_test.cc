#include "guest/huge/deferral.h"

#include "gtest/gtest.h"

namespace quire {
namespace {

// How many occasions are let pass before one is taken.
int LetPass(Deferral& deferral) {
  int passed = 0;
  while (deferral.ShouldDefer()) ++passed;
  return passed;
}

TEST(DeferralTest, NothingIsLetPassBeforeAFailure) {
  Deferral deferral;
  EXPECT_EQ(LetPass(deferral), 0);
  EXPECT_EQ(LetPass(deferral), 0);
}

TEST(DeferralTest, EachFailureDoublesTheWaitUpToALimit) {
  Deferral deferral;
  for (const int expected : {1, 3, 7, 15, 31, 63, 63, 63}) {
    deferral.Failed();
    EXPECT_EQ(LetPass(deferral), expected);
  }
}

TEST(DeferralTest, ASuccessEndsIt) {
  Deferral deferral;
  for (int i = 0; i < 5; ++i) deferral.Failed();
  deferral.Succeeded();
  EXPECT_EQ(LetPass(deferral), 0);
  deferral.Failed();
  EXPECT_EQ(LetPass(deferral), 1);
}

}  // namespace
}  // namespace quire
