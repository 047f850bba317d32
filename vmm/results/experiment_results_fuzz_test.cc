// What the fuzzer has found worth keeping, and thousands of small breakages of correct files, in every test run.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "base/testing/fuzz_target.h"
#include "gtest/gtest.h"

namespace quire::results {
namespace {

std::vector<std::string> Corpus() {
  std::vector<std::string> inputs;
  for (const auto& entry : std::filesystem::directory_iterator("vmm/results/experiment_results_corpus")) {
    std::ifstream file(entry.path(), std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

TEST(ExperimentResultsFuzz, KeepsItsPromisesForTheCorpus) {
  EXPECT_FALSE(Corpus().empty());
  for (const std::string& input : Corpus()) Try(input);
}

// Replaces a value, or what stands for one, by another of another kind.
TEST(ExperimentResultsFuzz, KeepsItsPromisesForBrokenFiles) {
  const char* const others[] = {"null", "-1", "0",  "1e18",  "1e-300", "1e999",         "18446744073709551616",
                                "\"\"", "[]", "{}", "[[1]]", "true",   "\"</script>\"", "\n",
                                "\xff", "]",  "}"};
  std::mt19937_64 random(1);
  for (const std::string& correct : Corpus()) {
    for (int round = 0; round < 300; ++round) {
      std::string input = correct;
      for (uint64_t left = random() % 3 + 1; left > 0; --left) {
        const size_t at = input.find_first_of(":,[", random() % input.size());
        if (at == std::string::npos) continue;
        const size_t end = input.find_first_of(",]}", at + 1);
        input.replace(at + 1, end == std::string::npos ? end : end - at - 1, others[random() % std::size(others)]);
      }
      if (random() % 8 == 0) input.resize(random() % input.size());
      Try(input);
    }
  }
}

}  // namespace
}  // namespace quire::results
