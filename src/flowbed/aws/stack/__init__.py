"""The deployment as a CloudFormation template, written by CDK: `python -m flowbed.aws.stack FOLDER`."""
