#include "vmm/baseline/setting.h"

#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(SettingTest, TheChosenOneIsInBrackets) {
  EXPECT_EQ(ChosenOf("always [madvise] never"), "madvise");
  EXPECT_EQ(ChosenOf("lz4"), "lz4");
  EXPECT_EQ(ChosenOf("[broken"), "[broken");
}

TEST(SettingTest, AFileIsReadWholeAndReplaced) {
  const std::string path = ::testing::TempDir() + "/setting";
  std::ofstream(path) << std::string(10000, 'x') << "\n";
  EXPECT_EQ(ReadSetting(path).value(), std::string(10000, 'x'));
  EXPECT_EQ(NumberIn(path), 0u);
  ASSERT_EQ(WriteSetting(path, "17"), absl::OkStatus());
  EXPECT_EQ(ReadSetting(path).value(), "17");
  EXPECT_EQ(NumberIn(path), 17u);
}

TEST(SettingTest, WhatIsMissingIsNamed) {
  EXPECT_EQ(ReadSetting("/nonexistent/a").status().code(), absl::StatusCode::kNotFound);
  const absl::Status status = WriteSetting("/nonexistent/a", "7");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("write 7 to /nonexistent/a"), std::string::npos) << status;
}

}  // namespace
}  // namespace quire
