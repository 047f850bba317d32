// What the fuzzer has found worth keeping, and hundreds of random drivers, in every test run.
#include <linux/virtio_mmio.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "base/testing/fuzz_target.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(MmioTransportFuzz, KeepsItsPromisesForTheCorpus) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("vmm/virtio/mmio_transport_corpus")) {
    std::ifstream file(entry.path(), std::ios::binary);
    SCOPED_TRACE(entry.path());
    Try(std::string(std::istreambuf_iterator<char>(file), {}));
    ++files;
  }
  EXPECT_GT(files, 0);
}

// Steps as the fuzzer reads them, most of which a driver takes too, in no order that makes sense.
TEST(MmioTransportFuzz, KeepsItsPromisesForRandomDrivers) {
  constexpr uint8_t kRegisters[] = {
      VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_NUM,
      VIRTIO_MMIO_QUEUE_READY,         VIRTIO_MMIO_QUEUE_NOTIFY,    VIRTIO_MMIO_STATUS,    VIRTIO_MMIO_QUEUE_AVAIL_LOW,
      VIRTIO_MMIO_QUEUE_USED_LOW,      VIRTIO_MMIO_QUEUE_DESC_LOW};
  constexpr char kValues[] = {0, 1, 2, 4, 8, 15, 16};
  std::mt19937 random(1);
  const auto any = [&](const auto& values) { return static_cast<char>(values[random() % std::size(values)]); };
  for (int round = 0; round < 500; ++round) {
    std::string input(1, static_cast<char>(round));
    for (int step = 0; step < 40; ++step) {
      const char kind = static_cast<char>(random() % 8);
      input += kind;
      if (kind == 2) {
        input += static_cast<char>(static_cast<uint8_t>(any(kRegisters)) / 4);
        input += any(kValues);
      } else if (kind == 3) {
        // A word of a ring of queue 0 or 1: descriptors, available ring, used ring.
        const uint32_t ring = random() % 2 * 0x4000 + (random() % 3 == 0 ? 0x100 : 0) + random() % 40;
        input += {static_cast<char>(ring), static_cast<char>(ring >> 8), 2, any(kValues), any(kValues)};
      } else {
        for (uint32_t left = random() % 4; left > 0; --left) input += any(kValues);
      }
    }
    Try(input);
  }
}

}  // namespace
}  // namespace quire
