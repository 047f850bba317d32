// What the fuzzer has found worth keeping, the experiments that come with the project, and thousands of small breakages
// of those, in every test run.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace quire {
namespace {

// A broken promise ends the program, not the test.
void Try(const std::string& file) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(file.data()), file.size());
}

std::vector<std::string> FilesIn(const std::string& directory) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::ifstream file(entry.path(), std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return files;
}

TEST(ExperimentFuzz, KeepsItsPromisesForTheCorpus) {
  const std::vector<std::string> files = FilesIn("vmm/experiment/experiment_corpus");
  EXPECT_GT(files.size(), 3u);
  for (const std::string& file : files) Try(file);
}

TEST(ExperimentFuzz, KeepsItsPromisesForBrokenExperiments) {
  const std::vector<std::string> files = FilesIn("experiments");
  ASSERT_FALSE(files.empty());
  std::mt19937_64 random(1);
  const std::string bytes = "[]{}\"'=.,#\n \\-0159aeE_\xff";
  for (int round = 0; round < 2000; ++round) {
    std::string file = files[random() % files.size()];
    for (uint64_t left = random() % 3 + 1; left > 0; --left) {
      const size_t at = random() % file.size();
      switch (random() % 4) {
        case 0:
          file.erase(at, random() % 20);
          break;
        case 1:
          file.insert(at, 1, bytes[random() % bytes.size()]);
          break;
        case 2:
          file[at] = bytes[random() % bytes.size()];
          break;
        default:
          file.insert(at, file.substr(random() % file.size(), random() % 60));
      }
    }
    Try(file);
  }
}

}  // namespace
}  // namespace quire
