// What the fuzzer has found worth keeping, and thousands of small breakages of correct kernels, in every test run.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "base/testing/fuzz_target.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/boot/test_kernels.h"

namespace quire {
namespace {

TEST(BootFuzz, KeepsItsPromisesForTheCorpus) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("vmm/boot/boot_corpus")) {
    std::ifstream file(entry.path(), std::ios::binary);
    SCOPED_TRACE(entry.path());
    Try(std::string(std::istreambuf_iterator<char>(file), {}));
    ++files;
  }
  EXPECT_GT(files, 0);
}

// Overwrites numbers between `begin` and `end` by such as lie near some limit.
void BreakAndTry(const std::string& correct, size_t begin, size_t end) {
  const uint64_t near[] = {0,
                           1,
                           16,
                           kPageSize,
                           kKernelBegin.value(),
                           uint64_t{2} << 20,
                           uint64_t{16} << 20,
                           uint64_t{1} << 31,
                           kLowMemoryLimit.value(),
                           kHighMemoryBegin.value(),
                           ~uint64_t{0}};
  std::mt19937_64 random(1);
  for (int round = 0; round < 3000; ++round) {
    std::string file = correct;
    for (uint64_t left = random() % 3 + 1; left > 0; --left) {
      const uint64_t value = near[random() % std::size(near)] + random() % 5 - 2;
      const size_t size = size_t{1} << random() % 4;
      const size_t at = begin + random() % (end - begin - size);
      std::memcpy(file.data() + at, &value, size);
    }
    if (random() % 8 == 0) file.resize(random() % file.size());
    Try(file);
  }
}

TEST(BootFuzz, KeepsItsPromisesForBrokenSetupHeaders) {
  BreakAndTry(TestBzImage().bytes(), 0x1f1, 0x1f1 + sizeof(setup_header));
}

TEST(BootFuzz, KeepsItsPromisesForBrokenElfFiles) {
  const std::string file = TestPvhElf().bytes();
  BreakAndTry(file, 0, file.size());
}

TEST(BootFuzz, KeepsItsPromisesForBrokenMultibootFiles) {
  const std::string elf = TestMultibootElf32();
  BreakAndTry(elf, 0, elf.size());
  const std::string flat = TestMultibootHeader(1 << 16, {1 << 20, 1 << 20, (1 << 20) + 100, 2 << 20, (1 << 20) + 32}) +
                           std::string(100, 'x');
  BreakAndTry(flat, 12, 32);
}

}  // namespace
}  // namespace quire
