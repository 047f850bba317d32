#include "vmm/libvirt/domain/scaled_size.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

uint64_t Bytes(absl::string_view number, absl::string_view unit) {
  return ParseScaledSize(number, unit).value().in_bytes();
}
std::string Error(absl::string_view number, absl::string_view unit) {
  const absl::Status status = ParseScaledSize(number, unit).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << number << unit;
  return std::string(status.message());
}

TEST(ScaledSizeTest, HasLibvirtsUnitsInEitherCase) {
  EXPECT_EQ(Bytes("4", ""), 4096u) << "KiB, where none is named";
  for (const char* unit : {"b", "B", "byte", "bytes", "Bytes"}) EXPECT_EQ(Bytes("4096", unit), 4096u) << unit;
  for (const char* unit : {"k", "K", "KiB", "kib"}) EXPECT_EQ(Bytes("3", unit), 3072u) << unit;
  EXPECT_EQ(Bytes("1024", "KB"), 1024'000u);
  for (const char* unit : {"m", "M", "MiB"}) EXPECT_EQ(Bytes("2", unit), uint64_t{2} << 20) << unit;
  EXPECT_EQ(Bytes("2", "GiB"), uint64_t{2} << 30);
  EXPECT_EQ(Bytes("2", "T"), uint64_t{2} << 40);
  EXPECT_EQ(Bytes("2", "PiB"), uint64_t{2} << 50);
  EXPECT_EQ(Bytes("2", "e"), uint64_t{2} << 60);
}

TEST(ScaledSizeTest, IsRoundedUpToKibAsLibvirtDoes) {
  EXPECT_EQ(Bytes("1", "b"), 1024u);
  EXPECT_EQ(Bytes("1", "KB"), 1024u);
  EXPECT_EQ(Bytes("1", "MB"), 977u * 1024);
  EXPECT_EQ(Bytes("0", "GiB"), 0u);
}

TEST(ScaledSizeTest, TakesSpacesAroundTheNumberAndNothingElse) {
  EXPECT_EQ(Bytes("\n  16\t", "KiB"), 16384u);
  for (const char* number : {"", " ", "x", "-1", "+1", "1.5", "1 2", "0x10", "99999999999999999999"}) {
    EXPECT_THAT(Error(number, "KiB"), HasSubstr("is no size: write a whole number")) << number;
  }
}

TEST(ScaledSizeTest, AUnitThatThereIsNotIsNamed) {
  for (const char* unit : {"parsec", "Ki", "KiBB", "BB", "i", "zb", "mib "}) {
    EXPECT_THAT(Error("1", unit), HasSubstr("is no unit: write KiB, MiB or GiB")) << unit;
  }
}

TEST(ScaledSizeTest, WhatNoMachineHasIsRefused) {
  EXPECT_EQ(Bytes("7", "EiB"), uint64_t{7} << 60);
  EXPECT_THAT(Error("8", "EiB"), HasSubstr("more than any machine has"));
  EXPECT_THAT(Error("18446744073709551615", "b"), HasSubstr("more than any machine has"));
}

}  // namespace
}  // namespace quire
