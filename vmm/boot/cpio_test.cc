#include "vmm/boot/cpio.h"

#include <cstddef>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

std::string Finish(CpioWriter writer) {
  const std::vector<std::byte> archive = std::move(writer).Finish();
  return std::string(reinterpret_cast<const char*>(archive.data()), archive.size());
}

const std::string kTrailer(
    "070701"
    "00000002"
    "00000000"
    "00000000"
    "00000000"
    "00000001"
    "00000000"
    "00000000"
    "00000000"
    "00000000"
    "00000000"
    "00000000"
    "0000000B"
    "00000000"
    "TRAILER!!!\0"
    "\0\0\0",
    110 + 11 + 3);

TEST(Cpio, AFileIsItsHeaderItsNameAndItsContent) {
  const std::string content = "hello";
  CpioWriter writer;
  writer.AddFile("init", {reinterpret_cast<const std::byte*>(content.data()), content.size()}, 0755);
  const std::string expected(
      "070701"
      "00000001"
      "000081ED"
      "00000000"
      "00000000"
      "00000001"
      "00000000"
      "00000005"
      "00000000"
      "00000000"
      "00000000"
      "00000000"
      "00000005"
      "00000000"
      "init\0"
      "\0"
      "hello"
      "\0\0\0",
      110 + 6 + 8);
  EXPECT_EQ(Finish(std::move(writer)), expected + kTrailer);
}

TEST(Cpio, ADeviceHasItsNumbers) {
  CpioWriter writer;
  writer.AddCharacterDevice("dev/tty", 5, 0x11, 0600);
  const std::string expected(
      "070701"
      "00000001"
      "00002180"
      "00000000"
      "00000000"
      "00000001"
      "00000000"
      "00000000"
      "00000000"
      "00000000"
      "00000005"
      "00000011"
      "00000008"
      "00000000"
      "dev/tty\0"
      "\0\0",
      110 + 10);
  EXPECT_EQ(Finish(std::move(writer)), expected + kTrailer);
}

TEST(Cpio, AFolderHasNoContent) {
  CpioWriter writer;
  writer.AddFolder("dev");
  const std::string archive = Finish(std::move(writer));
  EXPECT_EQ(archive.substr(6 + 8, 8), "000041ED");
  EXPECT_EQ(archive.substr(110, 6), std::string("dev\0\0\0", 6));
  EXPECT_EQ(archive.substr(116), kTrailer);
}

}  // namespace
}  // namespace quire
