#include "vmm/libvirt/manage/allocation.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "base/units.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

ByteCount MiB(uint64_t n) { return ByteCount::MiB(n); }

Claim ClaimOf(double shares, uint64_t active, uint64_t least, uint64_t most) {
  return {.shares = shares, .active = MiB(active), .least = MiB(least), .most = MiB(most)};
}

TEST(Allocate, GivesAllTheirMostWhereThereIsEnough) {
  const std::vector<Claim> claims = {ClaimOf(1, 10, 10, 100), ClaimOf(9, 0, 0, 50)};
  EXPECT_EQ(Allocate(MiB(150), 0.75, claims), (std::vector{MiB(100), MiB(50)}));
  EXPECT_EQ(Allocate(MiB(9000), 0.75, claims), (std::vector{MiB(100), MiB(50)}));
}

TEST(Allocate, GivesAllTheirLeastWhereThereIsNothing) {
  const std::vector<Claim> claims = {ClaimOf(1, 10, 10, 100), ClaimOf(9, 0, 5, 50)};
  EXPECT_EQ(Allocate(ByteCount(), 0.75, claims), (std::vector{MiB(10), MiB(5)}));
}

TEST(Allocate, DividesByShares) {
  const std::vector<Claim> claims = {ClaimOf(3, 1000, 0, 1000), ClaimOf(1, 1000, 0, 1000)};
  const std::vector<ByteCount> given = Allocate(MiB(400), 0.75, claims);
  EXPECT_NEAR(given[0].in_mib(), 300, 0.01);
  EXPECT_NEAR(given[1].in_mib(), 100, 0.01);
}

// What Waldspurger's formula says of two clients of equal shares: P1 * (f1 + k * (1 - f1)) = P2 * (f2 + k * (1 - f2)).
TEST(Allocate, HasAllAtTheSameSharesForAPage) {
  const double tax = 0.75, k = 1 / (1 - tax);
  const std::vector<Claim> claims = {ClaimOf(1, 200, 0, 1000), ClaimOf(1, 20, 0, 1000)};
  const std::vector<ByteCount> given = Allocate(MiB(300), tax, claims);
  EXPECT_NEAR(given[0].in_mib() + given[1].in_mib(), 300, 0.01);
  const auto priced = [&](size_t i) {
    return claims[i].active.in_mib() + k * (given[i].in_mib() - claims[i].active.in_mib());
  };
  EXPECT_NEAR(priced(0), priced(1), 0.01);
  EXPECT_GT(given[0], given[1]);
}

TEST(Allocate, TakesNoNoticeOfIdlenessWithoutATax) {
  const std::vector<Claim> claims = {ClaimOf(1, 200, 0, 1000), ClaimOf(1, 0, 0, 1000)};
  const std::vector<ByteCount> given = Allocate(MiB(300), 0, claims);
  EXPECT_NEAR(given[0].in_mib(), given[1].in_mib(), 0.01);
}

TEST(Allocate, KeepsToBoundsAndSumsForAnyClaims) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::vector<Claim> claims;
    ByteCount least, most;
    for (uint64_t left = random() % 8; left > 0; --left) {
      const uint64_t low = random() % 1000;
      claims.push_back(
          ClaimOf(1 + static_cast<double>(random() % 100000), random() % 2000, low, low + random() % 1000));
      least += claims.back().least;
      most += claims.back().most;
    }
    const ByteCount memory = MiB(random() % 10000);
    const double tax = static_cast<double>(random() % 100) / 100;
    const std::vector<ByteCount> given = Allocate(memory, tax, claims);
    ByteCount sum;
    for (size_t i = 0; i < claims.size(); ++i) {
      EXPECT_GE(given[i], claims[i].least);
      EXPECT_LE(given[i], claims[i].most);
      sum += given[i];
    }
    EXPECT_NEAR(sum.in_mib(), std::clamp(memory, least, most).in_mib(), 0.01);
  }
}

}  // namespace
}  // namespace quire
