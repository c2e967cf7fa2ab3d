#include "models/hf/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

// A file of the given header and data, whatever they are.
void write_raw(const std::filesystem::path& path, const std::string& header, const std::string& data) {
  const uint64_t header_bytes = header.size();
  std::string file(reinterpret_cast<const char*>(&header_bytes), 8);
  write_file(path, file + header + data);
}

std::string error_of_raw(const std::string& header, const std::string& data) {
  const TempDir dir;
  write_raw(dir / "raw.safetensors", header, data);
  const std::string message = user_error_of([&] { SafetensorsReader reader(dir / "raw.safetensors"); });
  EXPECT_NE(message.find("raw.safetensors"), std::string::npos) << message;
  return message;
}

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Safetensors, WritesTheFormatByteForByte) {
  const TempDir dir;
  const float f[2] = {1.0f, 2.0f};
  write_safetensors(dir / "f", {{.name = "w", .dtype = "F32", .shape = {2}, .data = f, .bytes = 8}},
                    {{"format", "pt"}});
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  std::string expected = json + std::string((8 - json.size() % 8) % 8, ' ');
  expected = std::string(1, static_cast<char>(expected.size())) + std::string(7, '\0') + expected +
             std::string("\x00\x00\x80\x3f\x00\x00\x00\x40", 8);
  EXPECT_EQ(read_file(dir / "f"), expected);
}

TEST(Safetensors, EveryDtypeAndShapeComesBackEqual) {
  const TempDir dir;
  std::vector<SafetensorsView> views;
  std::vector<std::string> contents;
  const std::vector<std::string> dtypes = {"BOOL", "BF16", "F64", "I32",    "F32",
                                           "U8",   "I64",  "F16", "F8_E4M3"};
  const std::vector<std::vector<int64_t>> shapes = {{}, {3}, {2, 3}, {0}, {4, 0, 2}};
  for (const auto& dtype : dtypes) {
    for (const auto& shape : shapes) {
      int64_t elements = 1;
      for (int64_t size : shape) elements *= size;
      std::string content(elements * safetensors_dtype_bytes(dtype), '\0');
      for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7 + contents.size());
      contents.push_back(content);
      views.push_back(
          {.name = dtype + "/\"\\\n" + std::to_string(views.size()), .dtype = dtype, .shape = shape});
    }
  }
  for (size_t i = 0; i < views.size(); ++i) {
    views[i].data = contents[i].data();
    views[i].bytes = contents[i].size();
  }
  write_safetensors(dir / "f", views, {{"a", "1"}, {"b", "tab\there"}});

  const SafetensorsReader reader(dir / "f");
  EXPECT_EQ(reader.metadata(), (SafetensorsMetadata{{"a", "1"}, {"b", "tab\there"}}));
  ASSERT_EQ(reader.tensors().size(), views.size());
  for (size_t i = 0; i < views.size(); ++i) {
    const SafetensorsInfo& info = reader.info(views[i].name);
    EXPECT_EQ(info.dtype, views[i].dtype);
    EXPECT_EQ(info.shape, views[i].shape);
    std::string content(info.bytes, '\0');
    reader.read(views[i].name, content.data(), content.size());
    EXPECT_EQ(content, contents[i]) << views[i].name;
  }
}

TEST(Safetensors, LargerElementsComeFirstThenNamesWhateverTheOrderGiven) {
  const TempDir dir;
  const double zeros[1] = {0};
  const SafetensorsView u8{.name = "a", .dtype = "U8", .shape = {1}, .data = zeros, .bytes = 1},
      f32{.name = "c", .dtype = "F32", .shape = {1}, .data = zeros, .bytes = 4},
      f32_first{.name = "b", .dtype = "F32", .shape = {1}, .data = zeros, .bytes = 4},
      f64{.name = "z", .dtype = "F64", .shape = {1}, .data = zeros, .bytes = 8};
  write_safetensors(dir / "f", {u8, f32, f32_first, f64});
  write_safetensors(dir / "g", {f64, f32_first, u8, f32});
  EXPECT_EQ(read_file(dir / "f"), read_file(dir / "g"));
  const SafetensorsReader reader(dir / "f");
  std::string order;
  for (const SafetensorsInfo& info : reader.tensors()) order += info.name;
  EXPECT_EQ(order, "zbca");
}

TEST(Safetensors, PiecesGiveTheSameFileAsTheWhole) {
  const TempDir dir;
  const char a[] = "0123456789ab", b[] = "xyz_";
  write_safetensors(dir / "whole", {{.name = "a", .dtype = "I32", .shape = {3}, .data = a, .bytes = 12},
                                    {.name = "b", .dtype = "U8", .shape = {4}, .data = b, .bytes = 4}});
  SafetensorsWriter writer(dir / "pieces", {{.name = "a", .dtype = "I32", .shape = {3}},
                                            {.name = "b", .dtype = "U8", .shape = {4}}});
  writer.append("b", b, 1);
  writer.append("a", a, 5);
  writer.append("a", a + 5, 7);
  EXPECT_THROW(writer.append("a", a, 1), Error);  // past its end
  EXPECT_THROW(writer.finish(), Error);           // b is not complete
  writer.append("b", b + 1, 3);
  const FileDigest written = writer.finish(), read = digest_file(dir / "pieces");
  EXPECT_EQ(written.bytes, read.bytes);
  EXPECT_EQ(written.crc32c, read.crc32c);
  EXPECT_EQ(read_file(dir / "pieces"), read_file(dir / "whole"));

  char part[4];
  SafetensorsReader(dir / "pieces").read_part("a", 5, part, 4);
  EXPECT_EQ(std::string(part, 4), "5678");
}

TEST(Safetensors, AFileWithNoTensorsIsLegal) {
  const TempDir dir;
  write_safetensors(dir / "f", {});
  EXPECT_TRUE(SafetensorsReader(dir / "f").tensors().empty());
}

TEST(Safetensors, AskingForAMissingTensorNamesFileAndTensor) {
  const TempDir dir;
  write_safetensors(dir / "model.safetensors", {{.name = "here", .dtype = "U8", .shape = {0}}});
  const SafetensorsReader reader(dir / "model.safetensors");
  const std::string message = user_error_of([&] { reader.info("there"); });
  EXPECT_CONTAINS(message, "model.safetensors");
  EXPECT_CONTAINS(message, "'there'");
}

TEST(Safetensors, WriterRefusesReservedRepeatedAndUnknown) {
  const TempDir dir;
  EXPECT_THROW(write_safetensors(dir / "f", {{.name = "__metadata__", .dtype = "U8", .shape = {0}}}), Error);
  EXPECT_THROW(write_safetensors(dir / "f", {{.name = "a", .dtype = "U8", .shape = {0}},
                                             {.name = "a", .dtype = "U8", .shape = {0}}}),
               Error);
  EXPECT_THROW(write_safetensors(dir / "f", {{.name = "a", .dtype = "F4", .shape = {0}}}), Error);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const TempDir dir;
  const char data[16] = {};
  write_safetensors(dir / "f", {{.name = "a", .dtype = "F64", .shape = {1}, .data = data, .bytes = 8},
                                {.name = "b", .dtype = "F32", .shape = {2}, .data = data, .bytes = 8}});
  const std::string whole = read_file(dir / "f");
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    File(dir / "f", FileMode::kCreate).write_all(whole.substr(0, bytes));
    const std::string message = user_error_of([&] { SafetensorsReader reader(dir / "f"); });
    EXPECT_CONTAINS(message, "is not a sound safetensors file") << "cut to " << bytes;
  }
  write_file(dir / "f", whole + "x");
  EXPECT_CONTAINS(user_error_of([&] { SafetensorsReader reader(dir / "f"); }), "something follows");
}

TEST(Safetensors, BadHeadersAreRefusedWithTheirReason) {
  EXPECT_CONTAINS(error_of_raw("[1,2]", ""), "does not start with '{'");
  EXPECT_CONTAINS(error_of_raw("{\"a\":", ""), "not valid JSON");
  EXPECT_CONTAINS(error_of_raw("{\"__metadata__\":{\"a\":1}}", ""), "metadata 'a' is not a string");
  EXPECT_CONTAINS(error_of_raw("{\"__metadata__\":7}", ""), "__metadata__ is not an object");
  EXPECT_CONTAINS(error_of_raw(R"({"w":{"dtype":"F32","shape":[1]}})", "abcd"), "tensor 'w' needs");
  EXPECT_CONTAINS(error_of_raw(R"({"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", "abcd"), "'w'");
  EXPECT_CONTAINS(error_of_raw(R"({"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "abcd"), "'w'");
  EXPECT_CONTAINS(error_of_raw(R"({"w":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}})", "abcd"), "'Q7'");
  EXPECT_CONTAINS(error_of_raw(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "abcd"),
                  "does not fit");
  EXPECT_CONTAINS(error_of_raw(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "abcd"),
                  "does not fit");
  EXPECT_CONTAINS(
      error_of_raw(R"({"w":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", ""),
      "does not fit");
}

TEST(Safetensors, AHeaderLengthBeyondTheFormatIsRefusedBeforeItIsRead) {
  const TempDir dir;
  write_file(dir / "f", std::string(8, '\x7f') + "{}");
  EXPECT_CONTAINS(user_error_of([&] { SafetensorsReader reader(dir / "f"); }), "header claims");
}

TEST(Safetensors, HolesOverlapsAndDuplicatesNameTheTensor) {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  std::string message =
      error_of_raw("{" + a + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}})", std::string(8, 'x'));
  EXPECT_CONTAINS(message, "'b'");
  EXPECT_CONTAINS(message, "hole");
  message = error_of_raw("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", "xxxxxx");
  EXPECT_CONTAINS(message, "'b'");
  EXPECT_CONTAINS(message, "overlapping");
  message = error_of_raw("{" + a + "," + a + "}", "xxxx");
  EXPECT_CONTAINS(message, "Repeated");
  EXPECT_CONTAINS(message, "'a'");
  EXPECT_CONTAINS(error_of_raw(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", "xxxx"), "hole");
}

TEST(Safetensors, AFullDiskNamesTheFile) {
  const std::vector<char> data(1 << 20);
  const std::string message = user_error_of([&] {
    write_safetensors(
        "/dev/full",
        {{.name = "a", .dtype = "U8", .shape = {1 << 20}, .data = data.data(), .bytes = data.size()}});
  });
  EXPECT_CONTAINS(message, "/dev/full");
}

}  // namespace
}  // namespace spanwise
