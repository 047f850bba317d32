// What the fuzzer has found worth keeping, and thousands of small breakages of correct rings, in every test run.
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
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/test_queue.h"

namespace quire {
namespace {

TEST(VirtqueueFuzz, KeepsItsPromisesForTheCorpus) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("vmm/virtio/virtqueue_corpus")) {
    std::ifstream file(entry.path(), std::ios::binary);
    SCOPED_TRACE(entry.path());
    Try(std::string(std::istreambuf_iterator<char>(file), {}));
    ++files;
  }
  EXPECT_GT(files, 0);
}

// A queue of 8 with two chains, one through a table.
std::string CorrectInput() {
  constexpr Gpa kTable(0x400), kBuffer(0x600);
  FakeDeviceMemory memory(ByteCount::KiB(16));
  TestQueue queue(memory, Gpa(0), 8);
  queue.Add({{.address = kBuffer, .size = 16}, {.address = kBuffer, .size = 32, .writable = true}});
  queue.AddIndirect(kTable, {{.address = kBuffer, .size = 16}, {.address = kBuffer, .size = 32, .writable = true}});
  const auto place = [](Gpa address) { return static_cast<uint16_t>(address.value() / 2); };
  const uint16_t header[] = {3 << 8 | 3, place(queue.layout().descriptors), place(queue.layout().available),
                             place(queue.layout().used)};
  std::string input(reinterpret_cast<const char*>(header), sizeof header);
  return input + LoadString(memory, Gpa(0), 0x800);
}

// Overwrites numbers in descriptors, table and available ring by some that lie near a limit.
TEST(VirtqueueFuzz, KeepsItsPromisesForBrokenRings) {
  constexpr uint64_t kNear[] = {0, 1, 2, 4, 8, 16, 0x400, 0x10000, uint64_t{1} << 32, ~uint64_t{0}};
  constexpr size_t kRings[] = {0, 0x80, 0x400};  // where they begin, and each has less than 64 bytes that matter
  const std::string correct = CorrectInput();
  std::mt19937_64 random(1);
  for (int round = 0; round < 5000; ++round) {
    std::string input = correct;
    for (uint64_t left = random() % 3 + 1; left > 0; --left) {
      const uint64_t value = kNear[random() % std::size(kNear)] + random() % 5 - 2;
      const size_t size = size_t{1} << random() % 4;
      const size_t header = random() % 8 == 0 ? 0 : 8;
      const size_t at = header + kRings[random() % std::size(kRings)] + random() % 64 / size * size;
      std::memcpy(input.data() + at, &value, size);
    }
    Try(input);
  }
}

}  // namespace
}  // namespace quire
