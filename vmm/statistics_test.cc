#include "vmm/statistics.h"

#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(MedianTest, IsTheMiddleWhateverTheOrder) {
  EXPECT_EQ(Median({7}), 7);
  EXPECT_EQ(Median({9, 1, 5}), 5);
  EXPECT_EQ(Median({4, 1, 100, 2}), 3);
}

// Mean 1, standard deviation 0.0158, t(0.975, 4) = 2.776.
TEST(ConfidenceTest, BoundsTheMeanAsStudentSays) {
  const Interval bounds = ConfidenceOfMean({1.01, 0.99, 1.02, 0.98, 1.00});
  EXPECT_NEAR(bounds.low, 0.98037, 0.0001);
  EXPECT_NEAR(bounds.high, 1.01963, 0.0001);
  const Interval certain = ConfidenceOfMean({2, 2, 2});
  EXPECT_EQ(certain.low, 2);
  EXPECT_EQ(certain.high, 2);
}

// t(0.975, 40) = 2.0211: beyond the table there is no step to the normal distribution's 1.96.
TEST(ConfidenceTest, GoesOnBeyondTheTable) {
  std::vector<double> values(41, 1);
  values[0] = 0;
  values[1] = 2;  // the sum of squares is 2
  const Interval bounds = ConfidenceOfMean(values);
  EXPECT_NEAR(bounds.high - 1, 2.0211 * 0.2236068 / 6.4031242, 0.00001);
}

TEST(MeanTest, IsTheSumByTheCount) { EXPECT_EQ(Mean({1, 2, 6}), 3); }

}  // namespace
}  // namespace quire
