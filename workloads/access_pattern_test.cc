#include "workloads/access_pattern.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "workloads/spec.h"
#include "workloads/workload_spec.h"
#include "workloads/zipf.h"

namespace quire {
namespace {

constexpr uint64_t kCount = 1000;

std::vector<Operation> Operations(const std::string& workload, int operations, uint64_t seed = 1,
                                  uint64_t count = kCount) {
  const WorkloadSpec spec = *ParseWorkload(workload);
  auto zipf = std::make_unique<ZipfTable>();
  BuildZipfTable(count + 1, spec.theta, *zipf);  // made for a vCPU with one page more
  AccessPattern pattern(spec, *zipf, count, seed);
  std::vector<Operation> out;
  for (int i = 0; i < operations; ++i) out.push_back(pattern.Next());
  return out;
}

double WriteShare(const std::vector<Operation>& operations) {
  const auto writes = std::count_if(operations.begin(), operations.end(), [](Operation o) { return o.write; });
  return static_cast<double>(writes) / static_cast<double>(operations.size());
}

TEST(Scatter, IsAPermutation) {
  for (uint64_t count : {1, 2, 3, 4, 5, 63, 64, 65, 1000, 65536}) {
    std::vector<bool> hit(count);
    for (uint64_t i = 0; i < count; ++i) {
      ASSERT_LT(Scatter(i, count), count);
      ASSERT_FALSE(hit[Scatter(i, count)]) << i << " of " << count;
      hit[Scatter(i, count)] = true;
    }
  }
}

// The 1 % most popular ranks of a 64 Ki page guest land in nearly every one of its 128 blocks.
TEST(Scatter, SpreadsNeighboursOverBlocks) {
  std::map<uint64_t, int> in_block;
  for (uint64_t rank = 0; rank < 655; ++rank) ++in_block[Scatter(rank, 65536) / 512];
  EXPECT_GT(in_block.size(), 115u);  // random placement hits 127 of 128 on average
  for (const auto& [block, ranks] : in_block) EXPECT_LT(ranks, 20) << block;
}

TEST(AccessPattern, TouchWritesAllInOrderThenReadsAllInOrder) {
  const std::vector<Operation> operations = Operations("touch", 4 * kCount);
  for (uint64_t i = 0; i < operations.size(); ++i) {
    ASSERT_EQ(operations[i].index, i % kCount);
    ASSERT_EQ(operations[i].write, i / kCount % 2 == 0) << i;
  }
}

TEST(AccessPattern, ScanIsCyclic) {
  const std::vector<Operation> operations = Operations("scan:writes=0", 3 * kCount);
  for (uint64_t i = 0; i < operations.size(); ++i) ASSERT_EQ(operations[i].index, i % kCount);
  EXPECT_EQ(WriteShare(operations), 0);
}

TEST(AccessPattern, ShareOfWrites) {
  for (const std::string workload : {"random", "zipf", "phases", "scan"}) {
    EXPECT_EQ(WriteShare(Operations(workload + ":writes=0", 10000)), 0) << workload;
    EXPECT_EQ(WriteShare(Operations(workload + ":writes=1", 10000)), 1) << workload;
    EXPECT_NEAR(WriteShare(Operations(workload + ":writes=0.3", 100000)), 0.3, 0.01) << workload;
  }
}

TEST(AccessPattern, RandomReachesEveryPageAboutEquallyOften) {
  std::vector<int> hits(kCount);
  for (Operation operation : Operations("random", 1000 * kCount)) ++hits.at(operation.index);
  EXPECT_GT(*std::min_element(hits.begin(), hits.end()), 800);
  EXPECT_LT(*std::max_element(hits.begin(), hits.end()), 1200);
}

TEST(AccessPattern, ZipfClusteredFollowsThePagesOrder) {
  std::vector<int> hits(kCount);
  for (Operation operation : Operations("zipf", 1000 * kCount)) ++hits.at(operation.index);
  EXPECT_NEAR(static_cast<double>(hits[0]) / hits[9], 9.8, 0.5);  // 10^0.99
  EXPECT_NEAR(static_cast<double>(hits[0]) / hits[99], 95.5, 6);
}

TEST(AccessPattern, ZipfScatteredIsTheSameDistributionElsewhere) {
  std::vector<int> clustered(kCount), scattered(kCount);
  for (Operation operation : Operations("zipf", 100000)) ++clustered.at(operation.index);
  for (Operation operation : Operations("zipf:scatter=1", 100000)) ++scattered.at(operation.index);
  EXPECT_NE(clustered, scattered);
  for (uint64_t rank = 0; rank < kCount; ++rank) ASSERT_EQ(scattered[Scatter(rank, kCount)], clustered[rank]);
}

TEST(AccessPattern, PhasesStayInAWorkingSetAndMoveOn) {
  const std::vector<Operation> operations = Operations("phases:set=0.1,period=2000", 40000);
  for (size_t phase = 0; phase < 20; ++phase) {
    std::set<uint64_t> used;
    for (size_t i = 0; i < 2000; ++i) used.insert(operations[phase * 2000 + i].index);
    EXPECT_EQ(used.size(), 100u);
    EXPECT_EQ(*used.begin(), phase * 100 % kCount);
  }
}

TEST(AccessPattern, PhasesWrapAround) {
  for (Operation operation : Operations("phases:set=0.3,period=10", 10000)) ASSERT_LT(operation.index, kCount);
}

TEST(AccessPattern, OnePageIsEnough) {
  for (const WorkloadInfo& workload : Workloads()) {
    for (Operation operation : Operations(std::string(workload.name), 100, 1, 1)) {
      ASSERT_EQ(operation.index, 0u) << workload.name;
    }
  }
}

TEST(AccessPattern, SeedDeterminesTheSequence) {
  const auto same = [](const std::vector<Operation>& a, const std::vector<Operation>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](Operation x, Operation y) { return x.index == y.index && x.write == y.write; });
  };
  for (const std::string workload : {"random", "zipf", "phases", "scan"}) {
    EXPECT_TRUE(same(Operations(workload, 1000, 5), Operations(workload, 1000, 5))) << workload;
    EXPECT_FALSE(same(Operations(workload, 1000, 5), Operations(workload, 1000, 6))) << workload;
  }
}

}  // namespace
}  // namespace quire
