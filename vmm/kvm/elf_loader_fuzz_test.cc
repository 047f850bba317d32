// What the fuzzer has found worth keeping, and thousands of small breakages of correct files, in every test run.
#include <elf.h>

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
#include "vmm/kvm/test_elf.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

TEST(ElfLoaderFuzz, KeepsItsPromisesForTheCorpus) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("vmm/kvm/elf_loader_corpus")) {
    std::ifstream file(entry.path(), std::ios::binary);
    SCOPED_TRACE(entry.path());
    Try(std::string(std::istreambuf_iterator<char>(file), {}));
    ++files;
  }
  EXPECT_GT(files, 0);
}

std::string CorrectFile() {
  TestElf elf;
  elf.AddSegment(QUIRE_IMAGE_BEGIN, 64, PF_X, std::string(64, '\x90'));
  elf.AddSegment(QUIRE_IMAGE_BEGIN + 64, kPageSize, PF_W, std::string(16, 'd'));
  elf.AddSegment(QUIRE_IMAGE_BEGIN + 2 * kPageSize, kPageSize, 0, "constants");
  elf.header.e_entry = QUIRE_IMAGE_BEGIN;
  return elf.bytes();
}

// Overwrites a number somewhere in the tables by one that lies near some limit.
TEST(ElfLoaderFuzz, KeepsItsPromisesForBrokenTables) {
  constexpr uint64_t kNear[] = {0,
                                1,
                                kPageSize,
                                QUIRE_IMAGE_BEGIN,
                                QUIRE_IMAGE_BEGIN + kPageSize,
                                QUIRE_IMAGE_END,
                                uint64_t{1} << 31,
                                uint64_t{1} << 47,
                                ~uint64_t{0}};
  const std::string correct = CorrectFile();
  std::mt19937_64 random(1);
  for (int round = 0; round < 10000; ++round) {
    std::string file = correct;
    for (uint64_t left = random() % 3 + 1; left > 0; --left) {
      const uint64_t value = kNear[random() % std::size(kNear)] + random() % 5 - 2;
      const size_t size = size_t{1} << random() % 4;
      const size_t at = random() % (sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr)) / size * size;
      std::memcpy(file.data() + at, &value, size);
    }
    if (random() % 8 == 0) file.resize(random() % file.size());
    Try(file);
  }
}

}  // namespace
}  // namespace quire
