// What the fuzzer has found worth keeping, the policy that comes with the project, and thousands of small breakages
// of those, in every test run.
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/testing/broken_files.h"
#include "base/testing/fuzz_target.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(PolicyFuzz, KeepsItsPromisesForTheCorpus) {
  const std::vector<std::string> files = FilesIn("vmm/libvirt/manage/policy_corpus");
  EXPECT_GT(files.size(), 3u);
  for (const std::string& file : files) Try(file);
}

TEST(PolicyFuzz, KeepsItsPromisesForBrokenPolicies) {
  const std::vector<std::string> files = FilesIn("policies");
  ASSERT_FALSE(files.empty());
  std::mt19937_64 random(1);
  const std::string bytes = "[]{}\"'=.,#\n \\-0159aeE_\xff";
  for (int round = 0; round < 2000; ++round) {
    Try(Broken(files[random() % files.size()], bytes, random));
  }
}

}  // namespace
}  // namespace quire
